//! The program reads its commands from a pipe.

use std::io::Write;
use std::process::{Command, Stdio};

/// Returns the output of the program for these lines.
fn output(lines: &str) -> String {
    let mut program = Command::new(env!("CARGO_BIN_EXE_arena_repl"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = program.stdin.take().unwrap();
    input.write_all(lines.as_bytes()).unwrap();
    drop(input);
    let output = program.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn segments_are_drawn_after_each_command() {
    let output = output(
        "create a 0x1000\n\
         span a 0x10000 0x10000\n\
         alloc a 8k\n\
         alloc a 4k best align=0x8000\n\
         free a 0x10000\n\
         check a\n",
    );
    let free = "·".repeat(64);
    assert!(
        output.contains(&format!("0x10000 │{free}│ 0x1ffff")),
        "{output}"
    );
    let bar = format!("{}{}", "█".repeat(8), "·".repeat(56));
    assert!(output.contains(&bar), "{output}");
    let bar = format!("{}{}{}", "·".repeat(32), "█".repeat(4), "·".repeat(28));
    assert!(output.contains(&bar), "{output}");
    assert!(output.contains("    █ 0x18000 + 0x1000"), "{output}");
    assert!(output.ends_with("no corruption\n"), "{output}");
}

#[test]
fn an_arena_borrows_from_another_and_releases() {
    let output = output(
        "create pages 4k\n\
         span pages 1m 1m\n\
         create heap 4k pages\n\
         alloc heap 64k\n\
         free heap 0x100000\n\
         trim heap\n\
         show pages\n",
    );
    assert!(output.contains("0x10000 of it borrowed"), "{output}");
    assert!(output.contains("0x10000 released"), "{output}");
    assert!(output.contains("pages: 0x100000 in spans, 0x0 of it borrowed; 0x0 allocated"));
}

#[test]
fn mistakes_are_explained_and_the_next_line_is_read() {
    let output = output(
        "span nowhere 0 1\n\
         create a 3\n\
         create a 4k\n\
         free a 0x1000\n\
         alloc a 1\n\
         where a 0\n\
         quit\n\
         show\n",
    );
    assert_eq!(
        output.lines().collect::<Vec<_>>(),
        [
            "error: no arena \"nowhere\"",
            "error: the quantum 0x3 is not a power of two",
            "error: nothing is allocated at 0x1000",
            "error: no room for 0x1",
            "in no span",
        ]
    );
}
