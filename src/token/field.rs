//! Reading fields of hostile JSON: typed, bounded, with errors that name the field.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};

use crate::measurement::text::printable;

/// Longest text of one field, in bytes. The largest real one (a blob with a seed) has about 1,000.
const MAX_TEXT: usize = 8192;

/// A token that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenError {
    /// A field that must be there is not.
    Missing {
        /// Its name.
        field: &'static str,
    },
    /// A field of the wrong JSON type.
    Type {
        /// Its name.
        field: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// A field of the right type with a value that makes no sense.
    Value {
        /// Its name.
        field: &'static str,
        /// What is wrong with it.
        found: String,
    },
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { field } => write!(f, "field {field} is missing"),
            Self::Type { field, expected } => write!(f, "field {field} is not {expected}"),
            Self::Value { field, found } => write!(f, "field {field}: {}", printable(found, 80)),
        }
    }
}

impl std::error::Error for TokenError {}

/// The fields of one token.
pub(super) struct Fields<'a>(pub(super) &'a Map<String, Value>);

impl<'a> Fields<'a> {
    /// The fields of a token of this type.
    pub(super) fn of(json: &'a Value, kind: &str) -> Result<Self, TokenError> {
        let fields = json.as_object().map(Fields);
        let fields = fields.ok_or(TokenError::Type { field: "token", expected: "an object" })?;
        if fields.text("type")? != Some(kind) {
            return Err(TokenError::Value { field: "type", found: format!("not {kind}") });
        }
        Ok(fields)
    }

    pub(super) fn text(&self, field: &'static str) -> Result<Option<&'a str>, TokenError> {
        match self.0.get(field) {
            None => Ok(None),
            Some(Value::String(text)) if text.len() <= MAX_TEXT => Ok(Some(text)),
            Some(Value::String(_)) => {
                Err(TokenError::Value { field, found: "longer than 8192 bytes".into() })
            }
            Some(_) => Err(TokenError::Type { field, expected: "a string" }),
        }
    }

    pub(super) fn flag(&self, field: &'static str) -> Result<bool, TokenError> {
        match self.0.get(field) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(TokenError::Type { field, expected: "true or false" }),
        }
    }

    pub(super) fn number(&self, field: &'static str) -> Result<Option<u64>, TokenError> {
        match self.0.get(field) {
            None => Ok(None),
            Some(value) => value
                .as_u64()
                .map(Some)
                .ok_or(TokenError::Type { field, expected: "a number that is not negative" }),
        }
    }

    pub(super) fn list(&self, field: &'static str) -> Result<Option<&'a Vec<Value>>, TokenError> {
        match self.0.get(field) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(_) => Err(TokenError::Type { field, expected: "an array" }),
        }
    }

    /// The one keyslot that a token opens.
    pub(super) fn keyslot(&self) -> Result<u32, TokenError> {
        let field = "keyslots";
        let items = self.list(field)?.ok_or(TokenError::Missing { field })?;
        match items.as_slice() {
            [Value::String(number)] => number
                .parse()
                .map_err(|_| TokenError::Value { field, found: "not a keyslot number".into() }),
            [_] => Err(TokenError::Type { field, expected: "an array of strings" }),
            _ => Err(TokenError::Value {
                field,
                found: format!("{} keyslots where one is expected", items.len()),
            }),
        }
    }

    pub(super) fn required_list(&self, field: &'static str) -> Result<&'a Vec<Value>, TokenError> {
        self.list(field)?.ok_or(TokenError::Missing { field })
    }
}

pub(super) fn base64(field: &'static str, text: &str) -> Result<Vec<u8>, TokenError> {
    STANDARD.decode(text).map_err(|_| TokenError::Value { field, found: "not base64".into() })
}

/// A field that may be one string or an array of them (systemd writes the array since 257).
pub(super) fn strings<'a>(
    field: &'static str,
    value: Option<&'a Value>,
) -> Result<Vec<&'a str>, TokenError> {
    let text = |value: &'a Value| match value {
        Value::String(text) if text.len() <= MAX_TEXT => Ok(text.as_str()),
        Value::String(_) => {
            Err(TokenError::Value { field, found: "longer than 8192 bytes".into() })
        }
        _ => Err(TokenError::Type { field, expected: "a string or an array of strings" }),
    };
    match value {
        None => Err(TokenError::Missing { field }),
        Some(Value::Array(items)) if (1..=2).contains(&items.len()) => {
            items.iter().map(text).collect()
        }
        Some(Value::Array(items)) => {
            Err(TokenError::Value { field, found: format!("{} items", items.len()) })
        }
        Some(value) => Ok(vec![text(value)?]),
    }
}
