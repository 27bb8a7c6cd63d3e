//! `vsctl`: the operator's tool. One thread, one request to the daemon, one table or one JSON document.

use std::process::ExitCode;

use clap::Parser;
use vswitch::cli::{self, Args};

fn main() -> ExitCode {
    cli::run(Args::parse())
}
