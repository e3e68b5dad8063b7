//! Tests of the test matrices' own harness: a row whose requirements this machine lacks counts as ignored, inside and
//! outside a namespace.

mod support;

use std::env;
use std::process::{Command, Output};

use libtest_mimic::{Arguments, Trial};
use support::netns;
use support::rows::{Row, missing};

/// Variable that makes this program run the rows below instead of its tests.
const ROWS: &str = "ROWS_UNDER_TEST";
/// The variable that makes [`rows`] required.
const REQUIRED: &str = "REQUIRE_ROWS";

fn rows() -> Vec<Row> {
    let rows = vec![
        Row::new("here: passes", || ()),
        Row::new("here: ignored", || missing("a thing")),
        Row::isolated("isolated: passes", || ()),
        Row::isolated("isolated: ignored", || missing("another thing")),
        Row::isolated("isolated: fails", || panic!("a reason")),
    ];
    rows.into_iter().map(|row| row.required_by(REQUIRED)).collect()
}

fn main() {
    let arguments = Arguments::from_args();
    let trials = if env::var_os(ROWS).is_some() {
        rows().into_iter().map(Row::into_trial).collect()
    } else {
        vec![
            test("a missing requirement is ignored with its reason", ignored_with_reason),
            test("a missing requirement fails if it is required", required),
            test("a failure inside a namespace fails the row", failure_inside),
        ]
    };
    libtest_mimic::run(&arguments, trials).exit();
}

fn test(name: &str, body: fn()) -> Trial {
    Trial::test(name, move || {
        body();
        Ok(())
    })
}

fn run_rows(filter: &str, required: &str) -> (Output, String) {
    let program = env::current_exe().expect("this program");
    let output = Command::new(program).arg(filter).env(ROWS, "1").env(REQUIRED, required).output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output, text)
}

/// Reports whether namespaces can be made. Without them every isolated row is ignored.
fn has_namespaces() -> bool {
    netns::isolated_with_mounts("true").is_some_and(|mut command| command.status().is_ok_and(|s| s.success()))
}

fn ignored_with_reason() {
    let (output, text) = run_rows("ignored", "");
    assert!(output.status.success(), "{text}");
    assert!(text.contains("0 passed; 0 failed; 2 ignored"), "{text}");
    assert!(text.contains("a thing") && (!has_namespaces() || text.contains("another thing")), "{text}");
}

fn required() {
    let (output, text) = run_rows("ignored", "1");
    assert!(!output.status.success() && text.contains("0 passed; 2 failed; 0 ignored"), "{text}");
    assert!(text.contains("REQUIRE_ROWS=1, but: a thing"), "{text}");
}

fn failure_inside() {
    let (output, text) = run_rows("isolated", "");
    let counts = if has_namespaces() { "1 passed; 1 failed; 1 ignored" } else { "0 passed; 0 failed; 3 ignored" };
    assert!(text.contains(counts), "{text}");
    assert!(!has_namespaces() || (!output.status.success() && text.contains("a reason")), "{text}");
}
