//! wip
use super::{Done, terminal::Talk};
use crate::cli::*;
/// wip
pub fn run(_g: &Global, _a: &Eventlog, _t: Talk) -> Done {
    Ok(())
}
