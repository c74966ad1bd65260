//! `unicon bench`.

mod passes;
mod scaling;

use super::session::Session;
use anyhow::Result;

/// Measures this program on this machine: each pass, and what a fit and a gradient are made of, beside the device's own
/// matrix product in the same run; with --scaling how one update shares out over ranks.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    passes: passes::Args,
    #[command(flatten)]
    scaling: scaling::Args,
}

impl Args {
    /// Whether all ranks take part.
    pub fn spreads(&self) -> bool {
        self.scaling.scaling
    }
}

pub fn run(session: &Session, args: Args) -> Result<()> {
    if args.scaling.scaling {
        scaling::run(session, &args.scaling)
    } else {
        passes::run(session, &args.passes)
    }
}
