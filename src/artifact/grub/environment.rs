//! GRUB's variables and the contexts that `configfile` and submenus open (`normal/context.c`).

use std::collections::BTreeMap;

/// A variable's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Known(String),
    /// Nothing tells it; why.
    Unknown(String),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Known(text.to_owned())
    }
}

/// The variables, one map a context.
#[derive(Debug, Clone, Default)]
pub(super) struct Environment {
    contexts: Vec<BTreeMap<String, Value>>,
}

impl Environment {
    /// Most variables of one context.
    const MAX_VARIABLES: usize = 4096;
    /// Deepest nesting of contexts.
    pub(super) const MAX_CONTEXTS: usize = 16;

    /// What `normal.mod` sets (`normal/main.c`); all of 2.06 and 2.12 have these features.
    pub(super) fn of_normal_mode() -> Self {
        let mut environment = Self { contexts: vec![BTreeMap::new()] };
        for feature in [
            "chainloader_bpb",
            "ntldr",
            "platform_search_hint",
            "default_font_path",
            "all_video_module",
            "menuentry_id",
            "menuentry_options",
            "200_final",
            "nativedisk_cmd",
            "timeout_style",
        ] {
            environment.set(&format!("feature_{feature}"), "y".into());
        }
        let newer = "only GRUB 2.12 has this feature".to_owned();
        environment.set("feature_search_cryptodisk_only", Value::Unknown(newer));
        environment.set("grub_cpu", "x86_64".into());
        environment.set("grub_platform", "efi".into());
        environment.set("color_normal", "light-gray/black".into());
        environment.set("color_highlight", "black/light-gray".into());
        environment
    }

    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.contexts.last()?.get(name)
    }

    /// The value if it is known and not empty.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match self.get(name) {
            Some(Value::Known(text)) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    /// Sets a variable; false where there are too many.
    pub(super) fn set(&mut self, name: &str, value: Value) -> bool {
        let Some(context) = self.contexts.last_mut() else { return false };
        if context.len() >= Self::MAX_VARIABLES && !context.contains_key(name) {
            return false;
        }
        context.insert(name.to_owned(), value);
        true
    }

    pub(super) fn unset(&mut self, name: &str) {
        if let Some(context) = self.contexts.last_mut() {
            context.remove(name);
        }
    }

    /// `grub_env_context_open`: the new context starts with copies of all variables.
    pub(super) fn open_context(&mut self) -> bool {
        let room = self.contexts.len() < Self::MAX_CONTEXTS;
        if room {
            self.contexts.extend(self.contexts.last().cloned());
        }
        room
    }

    /// `grub_env_context_close`: what was set inside is gone.
    pub(super) fn close_context(&mut self) {
        if self.contexts.len() > 1 {
            self.contexts.pop();
        }
    }
}
