//! `unicon completions` and `unicon man`: what a shell and `man` know of the program, made from its arguments.

use super::Program;
use super::output::{self, Report};
use super::session::Session;
use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;
use std::path::PathBuf;
use unicon::Error;

/// Prints the completions of a shell: of commands, options and their values.
///
/// For one user: `unicon completions bash > ~/.local/share/bash-completion/completions/unicon`, or
/// `unicon completions fish > ~/.config/fish/completions/unicon.fish`; for zsh `_unicon` in a folder of `$fpath`.
/// scripts/install.sh puts those of bash, zsh and fish where shells look for them.
#[derive(clap::Args)]
pub struct CompletionsArgs {
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

/// Prints the manual page, or writes one for every command.
///
/// `unicon man | man -l -` shows it. scripts/install.sh writes them all to PREFIX/share/man/man1.
#[derive(clap::Args)]
pub struct ManArgs {
    /// A folder for unicon.1, unicon-fit.1 and so on.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub fn completions(session: &Session, args: CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Program::command(), "unicon", &mut script);
    let script = String::from_utf8(script).context("completions are UTF-8")?;
    let mut report = Report::new("completions");
    report.value("shell", args.shell.to_string())?;
    report.value("script", &script)?;
    report.line(script.trim_end());
    session.print(&report)
}

pub fn man(session: &Session, args: ManArgs) -> Result<()> {
    let mut report = Report::new("man");
    let pages = pages()?;
    match args.out {
        None => {
            let (name, text) = pages.into_iter().next().context("the program has a page")?;
            report.value("pages", [&name])?;
            report.value("text", &text)?;
            report.line(text.trim_end());
        }
        Some(folder) => {
            if !folder.is_dir() {
                return Err(Error::invalid("--out", "a folder that exists", folder.display()).into());
            }
            for (name, text) in &pages {
                output::write(&folder.join(name), text)?;
            }
            let names: Vec<&String> = pages.iter().map(|(name, _)| name).collect();
            report.value("out", &folder)?;
            report.value("pages", &names)?;
            report.line(format!("wrote {} to {}", output::count(names.len(), "page"), folder.display()));
        }
    }
    session.print(&report)
}

/// File names and texts: the program's own page first.
fn pages() -> Result<Vec<(String, String)>> {
    let mut program = Program::command().disable_help_subcommand(true);
    // Subcommands get their full names and the arguments of every command.
    program.build();
    let commands = program.get_subcommands().filter(|c| !c.is_hide_set()).cloned().collect::<Vec<_>>();
    let page = |command: clap::Command| {
        let version = format!("unicon {}", env!("CARGO_PKG_VERSION"));
        let man = Man::new(command.version(env!("CARGO_PKG_VERSION"))).manual("UniCon").source(version);
        let mut text = Vec::new();
        man.render(&mut text)?;
        Ok((man.get_filename(), String::from_utf8(text)?))
    };
    std::iter::once(program).chain(commands).map(page).collect()
}
