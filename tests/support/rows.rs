//! Rows of a matrix: tests with names of their own, some of them in network and mount namespaces of their own. What the
//! machine lacks is skipped loudly, and fails where a variable says that nothing may be skipped.

use std::env;
use std::sync::Arc;

use libtest_mimic::{Failed, Trial};

use super::netns;

/// Precedes what this machine lacks.
pub const SKIPPED: &str = "SKIPPED: ";
/// Precedes what a row measured.
pub const MEASURED: &str = "measured: ";

/// One line of the matrix.
#[derive(Clone)]
pub struct Row {
    name: String,
    body: Arc<dyn Fn() + Send + Sync>,
    place: Place,
    /// The variable that is `1` where nothing may be skipped.
    required_by: &'static str,
}

/// Where a row runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// On loopback addresses of its own.
    Here,
    /// In network and mount namespaces of its own.
    Isolated,
}

impl Row {
    pub fn new(name: impl Into<String>, body: impl Fn() + Send + Sync + 'static) -> Self {
        Self { name: name.into(), body: Arc::new(body), place: Place::Here, required_by: "REQUIRE_FAULTS" }
    }

    pub fn isolated(name: impl Into<String>, body: impl Fn() + Send + Sync + 'static) -> Self {
        Self { place: Place::Isolated, ..Self::new(name, body) }
    }

    #[must_use]
    pub fn required_by(self, required_by: &'static str) -> Self {
        Self { required_by, ..self }
    }

    pub fn into_trial(self) -> Trial {
        let name = self.name.clone();
        Trial::test(name, move || {
            if self.place == Place::Isolated && env::var_os(netns::INSIDE).is_none() {
                return self.run_inside();
            }
            if self.place == Place::Isolated {
                netns::raise_loopback();
            }
            (self.body)();
            Ok(())
        })
    }

    fn run_inside(&self) -> Result<(), Failed> {
        let program = env::current_exe()?;
        let usable =
            netns::isolated_with_mounts("true").is_some_and(|mut command| command.status().is_ok_and(|s| s.success()));
        let Some(mut again) = netns::isolated_with_mounts(program).filter(|_| usable) else {
            return skip(self.required_by, &self.name, "unshare and ip cannot make namespaces here");
        };
        let output = again.args(["--exact", &self.name]).env(netns::INSIDE, "1").output()?;
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            // What the row measured, without what the harness says of it.
            for line in text(&output.stdout).lines().filter(|line| line.starts_with(MEASURED)) {
                println!("{}: {line}", self.name);
            }
            return Ok(());
        }
        let all = format!("{}\n{}", text(&output.stdout), text(&output.stderr));
        match all.split_once(SKIPPED) {
            Some((_, why)) => skip(self.required_by, &self.name, why.lines().next().unwrap_or_default()),
            None => Err(all.into()),
        }
    }
}

/// For what this machine cannot do.
pub fn skip(required_by: &str, name: &str, why: &str) -> Result<(), Failed> {
    if env::var(required_by).as_deref() == Ok("1") {
        return Err(format!("{SKIPPED}{why}").into());
    }
    eprintln!("{SKIPPED}{name}: {why}");
    Ok(())
}
