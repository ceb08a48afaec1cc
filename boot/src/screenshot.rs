//! Pictures of the machine's screen, which QEMU takes when it is asked through its protocol QMP.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::{NamedTempFile, TempDir};

use crate::{
    failure::Failure,
    host::{check_new_file, folder_of},
};

/// The version of the oldest QEMU that writes PNG.
pub(crate) const OLDEST_QEMU: (u32, u32) = (7, 1);

/// The time limit of an answer of QEMU.
const LIMIT: Duration = Duration::from_secs(10);

/// A file for a picture, and a socket through which QEMU can be asked for it.
#[derive(Debug)]
pub(crate) struct Screenshot {
    file: PathBuf,
    /// The folder of the socket. No other user can enter it.
    folder: TempDir,
}

impl Screenshot {
    /// Checks that `file` can be written, before a build begins.
    ///
    /// # Errors
    /// [`Failure::Input`] if `file` is a folder or is in none.
    pub(crate) fn prepare(file: &Path) -> Result<Self, Failure> {
        check_new_file(file)
            .and_then(|()| temporary(file).map_err(|error| error.to_string()))
            .map_err(|why| {
                let file = file.display();
                Failure::Input(format!("cannot write a picture to {file}: {why}"))
            })?;
        let folder = tempfile::tempdir()
            .map_err(Failure::because("cannot make a folder for QEMU's socket"))?;
        Ok(Self {
            file: file.into(),
            folder,
        })
    }

    /// Returns the path at which QEMU makes the socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("qmp")
    }

    /// Writes a picture of the screen of the machine that runs. A picture from before is replaced
    /// when the new one is complete.
    ///
    /// # Errors
    /// If QEMU or the file system refuses.
    pub(crate) fn take(&self) -> Result<(), Failure> {
        let because = |why: String| {
            let what = format!("cannot take the picture {}", self.file.display());
            Failure::because(&what)(std::io::Error::other(why))
        };
        let temporary = temporary(&self.file).map_err(|error| because(error.to_string()))?;
        let path = std::path::absolute(&temporary).map_err(|error| because(error.to_string()))?;
        let path = path
            .to_str()
            .ok_or_else(|| because("its name is not UTF-8".into()))?;
        self.ask(path).map_err(because)?;
        temporary
            .persist(&self.file)
            .map_err(|error| because(error.to_string()))?;
        eprintln!("run-qemu.sh: the screen is in {}", self.file.display());
        Ok(())
    }

    /// Asks QEMU for a picture in the file `path`.
    fn ask(&self, path: &str) -> Result<(), String> {
        let told = |error: std::io::Error| format!("QEMU does not answer: {error}");
        let mut stream = UnixStream::connect(self.socket()).map_err(told)?;
        stream.set_read_timeout(Some(LIMIT)).map_err(told)?;
        let mut answers = BufReader::new(stream.try_clone().map_err(told)?).lines();
        for command in [
            json!({"execute": "qmp_capabilities"}),
            json!({"execute": "screendump", "arguments": {"filename": path, "format": "png"}}),
        ] {
            stream
                .write_all(format!("{command}\n").as_bytes())
                .map_err(told)?;
            // A greeting and events come before the answer.
            loop {
                let line = answers.next().ok_or("QEMU has ended")?.map_err(told)?;
                let answer: Value = serde_json::from_str(&line).map_err(|why| why.to_string())?;
                if let Some(error) = answer.get("error") {
                    let reason = error["desc"].as_str().unwrap_or("it gave no reason");
                    return Err(format!("QEMU refuses: {reason}"));
                }
                if answer.get("return").is_some() {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Returns a new file beside `file`, with the permissions of the umask.
fn temporary(file: &Path) -> std::io::Result<NamedTempFile> {
    tempfile::Builder::new()
        .prefix(".screen-")
        .permissions(fs::Permissions::from_mode(0o666))
        .tempfile_in(folder_of(file))
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, thread};

    use super::*;

    /// Takes a picture of a machine that answers the commands with `answers`. Returns the result
    /// and the folder of the picture `screen.png`.
    fn take(answers: [&'static str; 2]) -> (Result<(), Failure>, TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let screenshot = Screenshot::prepare(&folder.path().join("screen.png")).unwrap();
        let listener = UnixListener::bind(screenshot.socket()).unwrap();
        let qemu = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut commands = BufReader::new(stream.try_clone().unwrap()).lines();
            stream.write_all(b"{\"QMP\": {}}\n").unwrap();
            for answer in answers {
                let command: Value =
                    serde_json::from_str(&commands.next().unwrap().unwrap()).unwrap();
                if command["execute"] == "screendump" {
                    fs::write(command["arguments"]["filename"].as_str().unwrap(), "PNG").unwrap();
                }
                stream.write_all(b"{\"event\": \"RESUME\"}\n").unwrap();
                stream.write_all(format!("{answer}\n").as_bytes()).unwrap();
            }
        });
        let taken = screenshot.take();
        qemu.join().unwrap();
        (taken, folder)
    }

    fn names(folder: &TempDir) -> Vec<std::ffi::OsString> {
        let entries = folder.path().read_dir().unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    }

    #[test]
    fn the_picture_is_complete_under_its_name() {
        let (taken, folder) = take([r#"{"return": {}}"#; 2]);
        taken.unwrap();
        assert_eq!(names(&folder), ["screen.png"]);
        assert_eq!(fs::read(folder.path().join("screen.png")).unwrap(), b"PNG");
    }

    #[test]
    fn a_refusal_of_qemu_is_one_line_and_leaves_no_file() {
        let refusal = r#"{"error": {"class": "GenericError", "desc": "no such format"}}"#;
        let (taken, folder) = take([r#"{"return": {}}"#, refusal]);
        let line = taken.unwrap_err().to_string();
        assert!(
            line.ends_with("screen.png: QEMU refuses: no such format"),
            "{line}"
        );
        assert!(names(&folder).is_empty());
        let nowhere = Screenshot::prepare(&folder.path().join("screen.png")).unwrap();
        assert!(
            nowhere
                .take()
                .unwrap_err()
                .to_string()
                .contains("does not answer")
        );
    }

    #[test]
    fn a_file_that_cannot_be_written_is_refused_before_a_build() {
        for (file, why) in [
            ("/usr", "it is a folder"),
            ("/nonexistent/x.png", "no folder"),
        ] {
            let failure = Screenshot::prepare(Path::new(file)).unwrap_err();
            assert!(failure.to_string().contains(why), "{failure}");
            assert_eq!(failure.status(), 2);
        }
    }
}
