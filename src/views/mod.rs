//! What the outside sees of the keeper: the status document, what the service manager is told, and the port file. Views only show:
//! each is a function of a snapshot, one can fail, and nothing waits for it.

pub mod notify;
pub mod port_file;
pub mod status;
