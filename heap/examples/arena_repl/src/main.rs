//! A command line for arenas. Start it with `cargo run -p arena_repl`, and type `help`.
//!
//! The tab key completes a word, and the arrow keys recall earlier lines. Commands can also come
//! from a pipe.

mod command;
mod complete;
mod draw;
mod session;

use std::process::ExitCode;

use command::Command;
use complete::Completion;
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{CompletionType, Config, Editor};
use session::Session;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), ReadlineError> {
    let config = Config::builder()
        .completion_type(CompletionType::List)
        .build();
    let mut editor = Editor::<Completion, DefaultHistory>::with_config(config)?;
    let mut session = Session::default();
    loop {
        editor.set_helper(Some(Completion::new(&session)));
        let line = match editor.readline("arena> ") {
            Ok(line) => line,
            Err(ReadlineError::Eof) => return Ok(()),
            Err(ReadlineError::Interrupted) => continue,
            Err(error) => return Err(error),
        };
        editor.add_history_entry(&line)?;
        match Command::parse(&line) {
            Ok(None) => {}
            Ok(Some(Command::Quit)) => return Ok(()),
            Ok(Some(command)) => match session.execute(command) {
                Ok(answer) => print!("{answer}"),
                Err(error) => println!("error: {error}"),
            },
            Err(error) => println!("error: {error}"),
        }
    }
}
