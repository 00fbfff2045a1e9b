//! `kmsctl crd`: the CustomResourceDefinition that this version knows.

use std::io::{self, Write};

use anyhow::Context as _;

/// Prints the CustomResourceDefinition of OfficeKmsHost: `kmsctl crd | kubectl apply --server-side -f -`
#[derive(Debug, Clone, clap::Args)]
pub struct Args {}

/// Runs the command.
///
/// # Errors
/// When the definition cannot be written.
pub fn run(_: &Args) -> anyhow::Result<()> {
    let text = kms_operator::crd::yaml().context("the CustomResourceDefinition cannot be written as YAML")?;
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("cannot write the result"),
        _ => Ok(()),
    }
}
