//! Helpers that unit tests share with the end-to-end tests.

#[path = "../tests/support/ca.rs"]
mod ca;
#[path = "../tests/support/temp_dir.rs"]
mod temp_dir;

pub use ca::Ca;
pub use temp_dir::TempDir;
