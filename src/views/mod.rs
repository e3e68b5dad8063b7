//! What the outside sees of the keeper: the status document, and what the service manager is told. Views only show: each is a
//! function of a snapshot, one can fail, and nothing waits for it.

pub mod notify;
pub mod status;
