//! Rows of a test matrix, some of them in network and mount namespaces of their own. A row whose requirements this
//! machine lacks counts as ignored, or fails if a variable forbids that.

use std::env;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;

use libtest_mimic::{Completion, Failed, Trial};

use super::netns;

/// Prefix of a missing requirement in the output of a row that runs in a namespace.
const MISSING: &str = "missing: ";
/// Prefix of a row's measurements.
pub const MEASURED: &str = "measured: ";

/// Payload of the panic with which [`missing`] ends a row.
struct Missing(String);

/// Ends the calling row because this machine lacks `what`.
pub fn missing(what: impl Into<String>) -> ! {
    // Bypasses the panic hook, because this is not a failure.
    panic::resume_unwind(Box::new(Missing(what.into())))
}

/// One row of the matrix.
#[derive(Clone)]
pub struct Row {
    name: String,
    body: Arc<dyn Fn() + Send + Sync>,
    place: Place,
    /// Variable that is `1` if the row must not be ignored.
    required_by: &'static str,
    /// Receives the lines that the row printed in its namespace.
    reader: Option<fn(&str, &str)>,
}

/// Place in which a row runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// On loopback addresses of its own.
    Here,
    /// In network and mount namespaces of its own.
    Isolated,
}

impl Row {
    pub fn new(name: impl Into<String>, body: impl Fn() + Send + Sync + 'static) -> Self {
        let (name, body) = (name.into(), Arc::new(body));
        Self { name, body, place: Place::Here, required_by: "REQUIRE_FAULTS", reader: None }
    }

    pub fn isolated(name: impl Into<String>, body: impl Fn() + Send + Sync + 'static) -> Self {
        Self { place: Place::Isolated, ..Self::new(name, body) }
    }

    #[must_use]
    pub fn required_by(self, required_by: &'static str) -> Self {
        Self { required_by, ..self }
    }

    /// Passes the row's name and each line that it printed in its namespace to `reader`.
    #[must_use]
    pub fn read_by(self, reader: fn(&str, &str)) -> Self {
        Self { reader: Some(reader), ..self }
    }

    pub fn into_trial(self) -> Trial {
        let name = self.name.clone();
        Trial::ignorable_test(name, move || match self.place {
            Place::Isolated if env::var_os(netns::INSIDE).is_none() => self.run_inside(),
            Place::Isolated => {
                netns::raise_loopback();
                self.run()
            }
            Place::Here => self.run(),
        })
    }

    fn run(&self) -> Result<Completion, Failed> {
        match panic::catch_unwind(AssertUnwindSafe(|| (self.body)())) {
            Ok(()) => Ok(Completion::Completed),
            Err(payload) => match payload.downcast::<Missing>() {
                Ok(missing) => {
                    println!("{MISSING}{}", missing.0);
                    self.ignored(&missing.0)
                }
                Err(payload) => panic::resume_unwind(payload),
            },
        }
    }

    fn run_inside(&self) -> Result<Completion, Failed> {
        let usable =
            netns::isolated_with_mounts("true").is_some_and(|mut command| command.status().is_ok_and(|s| s.success()));
        let Some(mut again) = netns::isolated_with_mounts(env::current_exe()?).filter(|_| usable) else {
            return self.ignored("unshare and ip cannot make namespaces here");
        };
        let output = again.args(["--exact", &self.name, "--nocapture"]).env(netns::INSIDE, "1").output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        for line in text.lines() {
            if line.starts_with(MEASURED) {
                println!("{}: {line}", self.name);
            }
            if let Some(read) = self.reader {
                read(&self.name, line);
            }
        }
        if let Some(what) = text.lines().find_map(|line| line.strip_prefix(MISSING)) {
            return self.ignored(what);
        }
        if output.status.success() && text.contains("1 passed") {
            return Ok(Completion::Completed);
        }
        Err(format!("{text}\n{}", String::from_utf8_lossy(&output.stderr)).into())
    }

    fn ignored(&self, what: &str) -> Result<Completion, Failed> {
        if env::var(self.required_by).as_deref() == Ok("1") {
            return Err(format!("{}=1, but: {what}", self.required_by).into());
        }
        Ok(Completion::ignored_with(what))
    }
}
