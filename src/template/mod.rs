//! Templates of machines, on the host that runs them: what a template is, what its machines will
//! measure, what was approved of that, and where the signatures go.
//!
//! ```text
//! Template + reference logs + files ──▶ Forecaster ──▶ Plan ── approval ──▶ Account ──▶ Delivered
//! ```
//!
//! Nothing here comes from a guest: the reference is the log of a boot that the host started, the
//! files are the host's.

mod account;
mod definition;
mod error;
mod forecast;
mod hardware;
mod plan;
mod store;
mod text;

pub use account::{Account, Known};
pub use definition::{Boot, Delivery, DeliveryKind, Material, Reference, Template, Vm};
pub use error::TemplateError;
pub use forecast::{Forecast, Forecaster, MachineKind};
pub use hardware::{Hardware, TpmInterface};
pub use plan::{Outlook, Plan, Shape, VmPlan};
pub use store::{Delivered, Templates, require_unexposed};
