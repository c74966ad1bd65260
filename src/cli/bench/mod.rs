//! `unicon bench`.

mod passes;

use super::session::Session;
use anyhow::Result;

/// Measures this program on this machine: each pass, and what a fit and a gradient are made of, beside the device's own
/// matrix product in the same run.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    passes: passes::Args,
}

pub fn run(session: &Session, args: Args) -> Result<()> {
    passes::run(session, &args.passes)
}
