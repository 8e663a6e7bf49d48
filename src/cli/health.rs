//! `health`: asks a server whether it is well, for a container's health check, where there is no curl.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

use super::CliError;

/// How long connecting, and each step of the answer, may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer that is read, in bytes.
const ANSWER_MAX: u64 = 64 << 10;

/// Ask a server whether it is well: exit code 0 if so, else 1 and one line that says why
///
/// Without URL, the server that `serve` starts here is asked, at LIGHTHOUSE_HOST and LIGHTHOUSE_PORT.
#[derive(Debug, clap::Args)]
pub(super) struct HealthArgs {
    /// Such as `http://127.0.0.1:8765/health`; https is not spoken
    url: Option<String>,
    #[arg(long, hide = true, env = "LIGHTHOUSE_HOST")]
    host: Option<String>,
    #[arg(long, hide = true, default_value_t = 8765, env = "LIGHTHOUSE_PORT")]
    port: u16,
}

pub(super) fn run(args: &HealthArgs) -> Result<ExitCode, CliError> {
    let url = args.url.clone().unwrap_or_else(|| {
        // Where it listens everywhere, it listens here.
        let host = args.host.as_deref().filter(|host| !matches!(*host, "0.0.0.0" | "::" | ""));
        let host = host.unwrap_or("127.0.0.1");
        match host.contains(':') && !host.starts_with('[') {
            true => format!("http://[{host}]:{}/health", args.port),
            false => format!("http://{host}:{}/health", args.port),
        }
    });
    let wrong = || {
        CliError::new(format!(
            "{url} is no URL to ask; give one such as http://127.0.0.1:8765/health"
        ))
    };
    let rest = url.strip_prefix("http://").ok_or_else(wrong)?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, "health"));
    let sane = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    if authority.is_empty() || !sane(authority) || !sane(path) {
        return Err(wrong());
    }
    let port_given =
        authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let address = if port_given { authority.to_owned() } else { format!("{authority}:80") };
    let failed = |err: std::io::Error| CliError::new(format!("{url} does not answer: {err}"));
    let answer = ask(&address, authority, path).map_err(failed)?;
    let status = answer.split_whitespace().nth(1).unwrap_or_default();
    if answer.starts_with("HTTP/") && status == "200" {
        return Ok(ExitCode::SUCCESS);
    }
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let said: Option<serde_json::Value> = serde_json::from_str(body.trim()).ok();
    let reason = said.as_ref().and_then(|said| said.get("reason").or_else(|| said.get("detail")));
    let reason = reason.and_then(serde_json::Value::as_str).unwrap_or("it does not say why");
    Err(CliError::new(format!("{url} answers {status}: {reason}")))
}

fn ask(address: &str, host: &str, path: &str) -> std::io::Result<String> {
    let mut last = std::io::Error::other("the name has no address");
    for address in address.to_socket_addrs()? {
        let mut stream = match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => stream,
            Err(err) => {
                last = err;
                continue;
            }
        };
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let request = format!("GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.take(ANSWER_MAX).read_to_end(&mut answer)?;
        return Ok(String::from_utf8_lossy(&answer).into_owned());
    }
    Err(last)
}
