//! Manual pages and completions, as shells and `man` take them.

use crate::ffi::{have, run};
use crate::program::Lab;
use std::process::Command;

/// A shell that finds the program as `unicon`.
fn shell(lab: &Lab, shell: &str, script: &str) -> Command {
    let mut command = Command::new(shell);
    let bin = std::path::Path::new(env!("CARGO_BIN_EXE_unicon")).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    command.arg("-c").arg(script).env("PATH", path).env("HOME", lab.path("."));
    command
}

#[test]
fn bash_completes_commands_and_options() {
    let lab = Lab::new();
    let script = "set -e; unicon completions bash >u; . ./u; COMP_WORDS=(unicon enc); COMP_CWORD=1; COMPREPLY=()\n\
                  _unicon unicon enc unicon; echo \"[${COMPREPLY[@]}]\"; COMP_WORDS=(unicon fit --los); COMP_CWORD=2\n\
                  COMPREPLY=(); _unicon unicon --los fit; echo \"[${COMPREPLY[@]}]\"";
    let said = run(shell(&lab, "bash", script).current_dir(lab.path(".")));
    assert_eq!(said, "[encode]\n[--loss]\n");
}

#[test]
fn fish_and_zsh_take_their_completions() {
    let lab = Lab::new();
    if have("fish", "fish") {
        let script =
            "unicon completions fish | source; complete -C 'unicon enc'; complete -C 'unicon fit --los'";
        let said = run(&mut shell(&lab, "fish", script));
        assert!(said.starts_with("encode\t") && said.contains("\n--loss\t"), "{said}");
    }
    if have("zsh", "zsh") {
        // Defined as a function of completion, with every command in it.
        let script =
            "autoload -U compinit; compinit -D; unicon completions zsh >_u; . ./_u; which _unicon_commands";
        let said = run(shell(&lab, "zsh", script).current_dir(lab.path(".")));
        assert!(said.contains("'encode:"), "{said}");
    }
}

#[test]
fn completions_of_an_unknown_shell_are_refused() {
    let line = Lab::new().fails(2, "completions csh");
    assert!(line.contains("csh") && line.contains("bash"), "{line}");
}

#[test]
fn every_command_has_a_manual_page_without_errors() {
    let lab = Lab::new();
    let help = lab.text("-h");
    let commands: Vec<&str> = help
        .split_once("Commands:\n")
        .and_then(|(_, rest)| rest.split_once("\n\n"))
        .map(|(list, _)| list.lines().filter_map(|l| l.strip_prefix("  ")?.split_whitespace().next()))
        .unwrap()
        .filter(|name| *name != "help" && help.contains(&format!("\n  {name} ")))
        .collect();
    assert!(commands.contains(&"fit") && commands.contains(&"man"), "{commands:?}");
    std::fs::create_dir(lab.path("pages")).unwrap();
    let pages = lab.json("man --out pages")["pages"].as_array().unwrap().clone();
    assert_eq!(pages[0], "unicon.1");
    assert_eq!(pages.len(), commands.len() + 1);
    for command in commands {
        let page = std::fs::read_to_string(lab.path(&format!("pages/unicon-{command}.1"))).unwrap();
        assert!(page.contains(&format!(".TH unicon-{command} 1")), "{page}");
        // The options of every command, too.
        assert!(page.contains("\\-\\-threads"), "{command}");
    }
    let fit = std::fs::read_to_string(lab.path("pages/unicon-fit.1")).unwrap();
    assert!(fit.contains("\\-\\-rank") && fit.contains("\\fBunicon fit\\fR"), "{fit}");
    assert_eq!(lab.text("man"), std::fs::read_to_string(lab.path("pages/unicon.1")).unwrap());
    let line = lab.fails(1, "man --out nowhere");
    assert!(line.contains("--out: expected a folder that exists, got nowhere"), "{line}");
    // mandoc has no option that prints its version.
    if Command::new("mandoc").arg("/dev/null").output().is_err() {
        crate::skip::skip("mandoc not found; get it with apt-get install mandoc");
        return;
    }
    let mut lint = Command::new("sh");
    lint.args(["-c", "mandoc -Tlint -Werror pages/*.1"]).current_dir(lab.path("."));
    assert_eq!(run(&mut lint), "");
    let text = run(Command::new("mandoc").args(["-Tascii", "pages/unicon-fit.1"]).current_dir(lab.path(".")));
    assert!(text.contains("unicon-fit(1)"), "{text}");
}
