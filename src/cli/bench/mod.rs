//! `unicon bench`.

mod scaling;

use super::session::Session;
use anyhow::Result;

/// Measures this program on this machine.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    scaling: scaling::Args,
}

pub fn run(session: &Session, args: Args) -> Result<()> {
    if args.scaling.scaling {
        return scaling::run(session, &args.scaling);
    }
    Err(unicon::Error::invalid("bench", "--scaling", "nothing to measure").into())
}
