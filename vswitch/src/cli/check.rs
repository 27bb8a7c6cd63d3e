//! `vsctl check`: validates a configuration file without a daemon.

use control::config::{Config, LoadError, Machine};
use serde::Serialize;

use super::{CheckArgs, CliError, NO, UNANSWERED, complain, say, say_json};
use crate::daemon::node;

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    errors: Vec<Finding>,
    /// The configuration with every default; empty when it is invalid.
    toml: String,
}

/// One thing that is wrong. `key` and `value` are empty for a file that is not even TOML.
#[derive(Debug, Default, Serialize)]
struct Finding {
    key: String,
    value: String,
    problem: String,
}

pub(super) fn run(args: &CheckArgs, json: bool) -> Result<u8, CliError> {
    let text = match std::fs::read_to_string(&args.file) {
        Ok(text) => text,
        Err(err) => {
            complain(&format!("read {}: {err}", args.file.display()));
            return Ok(UNANSWERED);
        }
    };
    let machine = if args.elsewhere {
        Machine::unknown()
    } else {
        match node::machine() {
            Ok(machine) => machine,
            Err(err) => {
                complain(&format!("look at this machine's interfaces: {err} (--elsewhere does without)"));
                return Ok(UNANSWERED);
            }
        }
    };
    let checked = Config::load(&text, &machine);
    if json {
        let report = report(&checked);
        say_json(&report)?;
        return Ok(if report.ok { 0 } else { NO });
    }
    match checked {
        Ok(config) => say(&config.to_toml()).map(|()| 0),
        Err(err) => {
            complain(&format!("{} is not valid:\n{err}", args.file.display()));
            Ok(NO)
        }
    }
}

fn report(checked: &Result<Config, LoadError>) -> Report {
    match checked {
        Ok(config) => Report { ok: true, errors: Vec::new(), toml: config.to_toml() },
        Err(LoadError::Syntax { err }) => {
            let finding = Finding { problem: err.to_string(), ..Finding::default() };
            Report { ok: false, errors: vec![finding], toml: String::new() }
        }
        Err(LoadError::Invalid(errors)) => {
            let findings = errors.0.iter().map(|error| Finding {
                key: error.key.clone(),
                value: error.value.clone(),
                problem: error.problem.to_string(),
            });
            Report { ok: false, errors: findings.collect(), toml: String::new() }
        }
    }
}
