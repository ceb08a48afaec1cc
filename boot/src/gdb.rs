//! Debugging the kernel with gdb.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use kernel_protocol::address::{KERNEL_BASE, KERNEL_MAIN};

use crate::{failure::Failure, host::find_program};

/// The address at which the machine waits for gdb. A program that can connect to it controls the
/// machine, so only this host can.
pub(crate) const ADDRESS: &str = "127.0.0.1:1234";

/// Finds gdb.
///
/// # Errors
/// [`Failure::Input`] if there is none.
pub(crate) fn program() -> Result<PathBuf, Failure> {
    find_program("gdb").ok_or_else(|| {
        Failure::Input(
            "--attach needs gdb, and there is none: install it (Debian: gdb), or leave --attach \
             out and use another debugger"
                .into(),
        )
    })
}

/// Returns the arguments of gdb that debug `kernel`, up to its main function.
fn arguments(kernel: &Path) -> Vec<String> {
    let kernel = kernel.display();
    let commands = [
        format!("target remote {ADDRESS}"),
        format!(r#"add-symbol-file "{kernel}" -o {KERNEL_BASE:#x}"#),
        // The kernel is not in memory yet, so the breakpoint must be one of the processor.
        format!("hbreak {KERNEL_MAIN}"),
        "continue".into(),
    ];
    // Without `confirm`, gdb asks nothing: neither for the symbols, nor before it quits.
    let mut arguments = vec!["-q".into(), "-ex".into(), "set confirm off".into()];
    for command in commands {
        arguments.extend(["-ex".into(), command]);
    }
    arguments
}

/// Returns the command that debugs `kernel`.
pub(crate) fn command(program: &Path, kernel: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(arguments(kernel));
    command
}

/// Returns the line for a shell that debugs `kernel`.
pub(crate) fn line(kernel: &Path) -> String {
    let words = arguments(kernel).into_iter().map(|word| {
        if word.contains([' ', '"', '\'']) {
            format!("'{}'", word.replace('\'', r"'\''"))
        } else {
            word
        }
    });
    format!("gdb {}", words.collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_what_a_shell_needs() {
        let line = line(Path::new("/it's/kernel"));
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!(r#"printf '%s\n' {line}"#)]);
        let words = String::from_utf8(shell.output().unwrap().stdout).unwrap();
        let words: Vec<_> = words.lines().collect();
        assert_eq!(words[0], "gdb");
        assert_eq!(words[1..], arguments(Path::new("/it's/kernel")));
        assert!(words.contains(&r#"add-symbol-file "/it's/kernel" -o 0xffff800000000000"#));
        assert!(words.contains(&"target remote 127.0.0.1:1234"), "{words:?}");
    }
}
