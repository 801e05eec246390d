//! Enrolling, adopting and revoking: plan (pure), then the changes to the header, each of which leaves a
//! volume that opens as before or as intended.

mod adopt;
mod apply;
mod keyslots;
mod plan;
mod record;
mod recovery;
mod revoke;

pub use adopt::{Adopted, Adoption, adopt};
pub use apply::{Enrolled, With, apply, check_pinned};
pub use keyslots::KeyslotUse;
pub use plan::{Chosen, Plan, plan, plan_without_log};
pub use recovery::{add_recovery_key, recovery_token};
pub use revoke::{Revoked, Target, check_revocable, revoke};
