//! The program with the arguments, the environment and the file of a Newt: what it signs in with.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

/// Nothing here takes longer, unless it is stuck.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ends with the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A control host that refuses everybody and tells with what they came.
fn control_host() -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut length = 0;
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
                    break;
                }
                if let Some((name, value)) = line.split_once(':')
                    && name.eq_ignore_ascii_case("content-length")
                {
                    length = value.trim().parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            if reader.read_exact(&mut body).is_err() {
                continue;
            }
            let answer = "HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
            let _ = stream.write_all(answer.as_bytes());
            if tell.send(String::from_utf8(body).unwrap()).is_err() {
                return;
            }
        }
    });
    (endpoint, told)
}

fn program(arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pangolin-connector"));
    command.env_clear().args(arguments).envs(environment.iter().copied()).stderr(Stdio::piped());
    command
}

#[test]
fn arguments_go_before_the_environment_and_that_before_the_file() {
    struct Case<'a> {
        what: &'a str,
        arguments: &'a [&'a str],
        environment: &'a [(&'a str, &'a str)],
        file: Option<&'a str>,
        expected: (&'a str, &'a str),
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("site").display().to_string();
    let json = r#"{"id":"json","secret":"of json","pingInterval":"15s"}"#;
    let toml = "id = 'toml'\nsecret = 'of toml'\n";
    let newt: &[(&str, &str)] = &[("NEWT_ID", "newt"), ("NEWT_SECRET", "of newt"), ("LOG_LEVEL", "INFO")];
    let cases = [
        Case {
            what: "arguments alone",
            arguments: &["--id", "arg", "--secret", "of arg"],
            environment: &[],
            file: None,
            expected: ("arg", "of arg"),
        },
        Case {
            what: "the environment alone, with what means nothing here",
            arguments: &[],
            environment: &[
                ("NEWT_ID", "newt"),
                ("NEWT_SECRET", "of newt"),
                ("ACCEPT_CLIENTS", "true"),
                ("PING_TIMEOUT", "5s"),
                ("MTU", "1300"),
                ("LOG_LEVEL", "FATAL"),
            ],
            file: None,
            expected: ("newt", "of newt"),
        },
        Case {
            what: "a Newt's file alone",
            arguments: &[],
            environment: &[],
            file: Some(json),
            expected: ("json", "of json"),
        },
        Case {
            what: "a file of our own",
            arguments: &["--native"],
            environment: &[],
            file: Some(toml),
            expected: ("toml", "of toml"),
        },
        Case {
            what: "an argument before the rest",
            arguments: &["--id", "arg"],
            environment: newt,
            file: Some(json),
            expected: ("arg", "of newt"),
        },
        Case {
            what: "the environment before the file",
            arguments: &[],
            environment: &[("NEWT_ID", "newt")],
            file: Some(json),
            expected: ("newt", "of json"),
        },
        Case {
            what: "the older name before the newer one",
            arguments: &[],
            environment: &[("SITE_ID", "site"), ("NEWT_ID", "newt"), ("SITE_SECRET", "of site")],
            file: Some(json),
            expected: ("newt", "of site"),
        },
    ];
    for Case { what, arguments, environment, file, expected } in cases {
        let (endpoint, told) = control_host();
        let mut command = program(arguments, environment);
        command.env("PANGOLIN_ENDPOINT", &endpoint).stderr(Stdio::null());
        if let Some(text) = file {
            std::fs::write(&path, text).unwrap();
            command.env("CONFIG_FILE", &path);
        }
        let running = Program(command.spawn().unwrap());
        let body = told.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{what}: nobody signs in"));
        drop(running);
        let (id, secret) = expected;
        let wanted = format!(r#"{{"newtId":"{id}","secret":"{secret}"}}"#);
        assert_eq!(body, wanted, "{what}");
    }
}

#[test]
fn what_means_nothing_here_is_said_once_and_names_no_values() {
    let (endpoint, told) = control_host();
    let arguments = ["--id", "k", "--accept-clients", "--docker-socket", "/var/run/docker.sock"];
    let environment =
        [("NEWT_SECRET", "s3cret"), ("AD_KEY", "hidden"), ("PANGOLIN_ENDPOINT", endpoint.as_str())];
    let mut running = Program(program(&arguments, &environment).spawn().unwrap());
    told.recv_timeout(PATIENCE).unwrap();
    running.0.kill().unwrap();
    let mut said = String::new();
    running.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    let lines: Vec<&str> = said.lines().filter(|line| line.contains("mean nothing here")).collect();
    assert_eq!(lines.len(), 1, "{said}");
    for name in ["--accept-clients (", "--docker-socket (", "AD_KEY ("] {
        assert!(lines[0].contains(name), "{said}");
    }
    assert!(!said.contains("hidden") && !said.contains("s3cret"), "{said}");
}

#[test]
fn it_does_not_start_without_verifying_certificates() {
    let all = [("NEWT_ID", "k"), ("NEWT_SECRET", "s"), ("PANGOLIN_ENDPOINT", "https://127.0.0.1:1")];
    let refused = program(&[], &[&all[..], &[("SKIP_TLS_VERIFY", "true")]].concat()).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("--ca-file"), "{said}");
}
