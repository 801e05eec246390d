//! Templates of machines, on the host that runs them: what a template is, what its machines will
//! measure, what was approved of that, and where the signatures go.
//!
//! ```text
//! Template + reference logs + files ──▶ Forecaster ──▶ Forecasts
//!                   Template + Forecasts + Account ──▶ Plan ── approval ──▶ Account ──▶ Delivered
//! ```
//!
//! The reference is the log of a boot that the host started. Kernels that the host gives are its own
//! files; disks and unified kernel images were written by guests, and their forecasts are made by a
//! confined process, which gives them to the one that has the key as a [`wire`] text.

mod account;
mod definition;
mod delivery;
mod error;
mod forecast;
mod forecasts;
mod hardware;
pub mod import;
mod own_words;
mod plan;
mod store;
mod survey;
mod text;
pub mod wire;

pub use account::{Account, Known};
pub use definition::{Boot, Delivery, DeliveryKind, Disk, Material, Reference, Template, Vm};
pub use error::{TemplateError, Unread};
pub use forecast::{EntryForecast, Forecast, Forecaster, MachineKind, Sources};
pub use forecasts::{Forecasts, Shape, VmForecast};
pub use hardware::{Hardware, TpmInterface};
pub use plan::{Outlook, Plan, VmPlan};
pub use store::{Delivered, Templates, require_unexposed};
pub use survey::faults;
