//! Enrolling, adopting and revoking: plan (pure), then the changes to the header, each of which leaves a
//! volume that opens as before or as intended.

mod adopt;
mod apply;
pub mod attach;
mod endorse;
mod keyslots;
mod next;
mod plan;
mod record;
mod recovery;
mod revoke;
mod to;

pub use adopt::{Adopted, Adoption, adopt};
pub use apply::{Enrolled, With, apply, check_pinned, pin_volume};
pub use endorse::{Endorsement, check_endorsable, endorse};
pub use keyslots::{KeyslotUse, keyslots_of};
pub use next::{NextBoot, Unforeseen, plan_entry, plan_next};
pub use plan::{Chosen, Plan, plan, plan_elsewhere, plan_without_log};
pub use recovery::{add_recovery_key, recovery_token};
pub use revoke::{Revoked, Target, check_revocable, retire, revoke};
pub use to::To;
