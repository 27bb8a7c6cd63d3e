//! `vswitch-cni`: the CNI plugin (CNI specification 0.3.1 to 1.1.0).
//!
//! One process for one command. It reads environment and standard input, checks them, sends one request to
//! `vswitchd` over its control socket, and prints the result or the error as JSON on standard output. It keeps no
//! state, enters no namespace, starts no thread and no other program.
//!
//! ```text
//! main (process) -> env, conf (input forms) -> verbs (one request) -> result (output form)
//! ```

mod conf;
mod env;
mod result;
mod spec;
mod verbs;

use std::io::{Read, Write};
use std::process::ExitCode;

use control::api::code;
use serde_json::Value;

use crate::env::Env;
use crate::spec::{CniError, Version};

/// Longest configuration taken, in bytes.
const MAX_INPUT: u64 = 1 << 20;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|arg| arg == "--version") {
        let text = format!(
            "vswitch-cni {}, CNI {}\n",
            env!("CARGO_PKG_VERSION"),
            Version::ALL.map(Version::name).join(", ")
        );
        return print(&text, ExitCode::SUCCESS);
    }
    let env = Env::of_process();
    match read_input().and_then(|input| run(&env, &input)) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(result)) => print(&format!("{result}\n"), ExitCode::SUCCESS),
        Err(err) => print(&format!("{}\n", err.to_json()), ExitCode::FAILURE),
    }
}

/// The whole plugin between its input and its output.
fn run(env: &Env, input: &[u8]) -> Result<Option<Value>, CniError> {
    let command = env.command()?;
    verbs::run(command, env, input)
}

fn read_input() -> Result<Vec<u8>, CniError> {
    let mut input = Vec::new();
    match std::io::stdin().lock().take(MAX_INPUT + 1).read_to_end(&mut input) {
        Err(err) => Err(CniError::new(code::IO, "read the network configuration").because(err)),
        Ok(n) if n as u64 > MAX_INPUT => Err(CniError::new(
            code::DECODE,
            format!("the network configuration is longer than {MAX_INPUT} bytes"),
        )),
        Ok(_) => Ok(input),
    }
}

fn print(text: &str, exit: ExitCode) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => exit,
        // Nobody is there to read a reason.
        Err(_) => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests;
