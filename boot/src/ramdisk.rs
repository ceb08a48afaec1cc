//! The RAM disk: a ustar archive with the kernel's configuration, recorded traces and files of the
//! project.

use std::io;

use kernel_protocol::{
    config::{Config, Mode},
    ramdisk::{CONFIG, TraceFile},
};

use crate::{failure::Failure, files::File, trace::Trace};

/// Returns the configuration of all tests. In every run the heap's window has the same address.
pub(crate) fn test_config() -> Config<'static> {
    Config {
        mode: Mode::Test,
        randomisation_seed: Some(1),
        host: true,
        ..Config::default()
    }
}

/// Returns the archive with `config`, `traces` and `files`.
pub(crate) fn archive(
    config: &Config<'_>,
    traces: &[Trace],
    files: &[File],
) -> Result<Vec<u8>, Failure> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut append = |name: &str, bytes: &[u8]| -> io::Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, bytes)
    };
    append(CONFIG, config.to_string().as_bytes())
        .and_then(|()| {
            traces
                .iter()
                .try_for_each(|trace| append(&TraceFile(&trace.name).to_string(), &trace.bytes))
        })
        .and_then(|()| {
            files
                .iter()
                .try_for_each(|file| append(&file.name, &file.bytes))
        })
        .and_then(|()| archive.into_inner())
        .map_err(Failure::because("cannot write the RAM disk"))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn the_configuration_is_first_and_traces_and_files_follow() {
        let trace = |name: &str, bytes: &[u8]| Trace {
            name: name.into(),
            bytes: bytes.into(),
        };
        let traces = [trace("cc", &[7; 1000]), trace("git", &[])];
        let motd = File {
            name: "etc/motd".into(),
            bytes: b"Hello".into(),
        };
        let bytes = archive(&test_config(), &traces, &[motd]).unwrap();
        let mut archive = tar::Archive::new(&bytes[..]);
        let files: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                (entry.path().unwrap().into_owned(), content)
            })
            .collect();
        let config = b"mode=test\nrandomisation-seed=1\nhost=yes\n";
        assert_eq!(files[0], ("config".into(), config.to_vec()));
        assert_eq!(files[1], ("traces/cc.trace".into(), vec![7; 1000]));
        assert_eq!(files[2], ("traces/git.trace".into(), vec![]));
        assert_eq!(files[3], ("etc/motd".into(), b"Hello".to_vec()));
        assert_eq!(files.len(), 4);
    }
}
