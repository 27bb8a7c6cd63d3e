//! `vsctl uninstall`: has everything removed, and says what was.

use std::fmt::Write as _;

use control::config::Config;

use super::{CliError, NO, UNANSWERED, UninstallArgs, complain, say, say_json};
use crate::daemon::{node, uninstall};

pub(super) fn run(args: &UninstallArgs, json: bool) -> Result<u8, CliError> {
    let no_answer = |text: String| {
        complain(&text);
        Ok(UNANSWERED)
    };
    let text = match std::fs::read_to_string(&args.file) {
        Ok(text) => text,
        Err(err) => return no_answer(format!("read {}: {err}", args.file.display())),
    };
    let machine = match node::machine() {
        Ok(machine) => machine,
        Err(err) => return no_answer(format!("look at this machine's interfaces: {err}")),
    };
    let config = match Config::load(&text, &machine) {
        Ok(config) => config,
        Err(err) => return no_answer(format!("{} is not valid:\n{err}", args.file.display())),
    };
    let report = match uninstall::run(&config) {
        Ok(report) => report,
        Err(refusal) => {
            complain(&refusal.to_string());
            return Ok(NO);
        }
    };
    if json {
        say_json(&report)?;
    } else {
        let mut text = String::new();
        for line in &report.removed {
            let _ = writeln!(text, "removed {line}");
        }
        if report.removed.is_empty() && report.failed.is_empty() {
            text.push_str("nothing was left\n");
        }
        say(&text)?;
        report.failed.iter().for_each(|line| complain(line));
    }
    Ok(if report.failed.is_empty() { 0 } else { NO })
}
