//! `vswitchd`: the node service. Started by people and systemd it is the keeper; the keeper starts it again with
//! `--switch`, and that process is the data path.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// The pod network of a Kubernetes node in one userspace process.
#[derive(Parser)]
#[command(name = "vswitchd", version)]
struct Args {
    /// Configuration file.
    #[arg(long, value_name = "FILE", default_value = control::config::DEFAULT_PATH)]
    config: PathBuf,
    /// Run as the switch: forward packets, with the descriptors of the keeper on descriptor 3.
    #[arg(long, hide = true)]
    switch: bool,
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("VSWITCH_LOG").unwrap_or_else(|_| "info".into()),
        )
        .init();
    let args = Args::parse();
    let done = if args.switch {
        vswitch::daemon::run(&args.config).map(|()| 0).map_err(anyhow::Error::from)
    } else {
        let rest = ["--config".into(), args.config.into_os_string()];
        vswitch::daemon::keeper::run(&rest).map_err(anyhow::Error::from)
    };
    match done {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(err) => {
            // People get the whole chain on standard error, once.
            let mut text = String::new();
            for cause in err.chain() {
                let cause = cause.to_string();
                if !text.contains(&cause) {
                    if !text.is_empty() {
                        text.push_str(": ");
                    }
                    text.push_str(&cause);
                }
            }
            eprintln!("vswitchd: {text}");
            ExitCode::FAILURE
        }
    }
}
