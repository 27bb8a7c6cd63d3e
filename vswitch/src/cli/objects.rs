//! `vsctl apply`, `get` and `delete`: objects in the store in use.

use std::io::Read;
use std::path::{Path, PathBuf};

use control::api::{Request, StoreReply};
use control::client::{Client, ClientError};
use control::objects::yaml;
use serde_json::Value;

use super::table::Column::Left;
use super::table::Table;
use super::{CliError, NO, TIMEOUT, UNANSWERED, complain, say, say_json};

/// Most bytes of one file.
const MOST_BYTES: u64 = 64 << 20;

/// What is done with each object.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Apply,
    Delete,
}

/// Applies or deletes every object of a file, of a directory's files, or of standard input (`-`). Goes on after one that
/// failed; then the exit code says so.
pub(super) fn each(socket: &Path, verb: Verb, from: &Path, json: bool) -> Result<u8, CliError> {
    let mut objects = Vec::new();
    let mut code = 0;
    for file in files(from) {
        let read = file.and_then(|file| read(&file).map_err(|err| format!("{}: {err}", file.display())));
        match read {
            Ok(found) => objects.extend(found),
            Err(why) => {
                complain(&why);
                code = UNANSWERED;
            }
        }
    }
    let mut client = Client::connect(socket, TIMEOUT)?;
    for manifest in objects {
        let name = name(&manifest);
        let request = match verb {
            Verb::Apply => Request::Apply { manifest },
            Verb::Delete => Request::Delete { manifest },
        };
        match client.call::<StoreReply>(&request) {
            Ok(reply) if json => say_json(&reply)?,
            Ok(reply) => say(&match verb {
                Verb::Apply => format!("{name} applied\n"),
                Verb::Delete if reply.existed => format!("{name} deleted\n"),
                Verb::Delete => format!("{name} was not there\n"),
            })?,
            // The daemon's word about this object; the others have their turn.
            Err(ClientError::Refused(err)) => {
                complain(&format!("{name}: {err}"));
                code = code.max(NO);
            }
            Err(err) => return Err(err.into()),
        }
    }
    Ok(code)
}

/// Shows objects: one whole, several by name.
pub(super) fn get(socket: &Path, request: &Request, json: bool) -> Result<u8, CliError> {
    let reply: StoreReply = Client::connect(socket, TIMEOUT)?.call(request)?;
    let one = matches!(request, Request::Get { name: Some(_), .. });
    if json || (one && !reply.objects.is_empty()) {
        say_json(&reply.objects)?;
    } else if reply.objects.is_empty() {
        say("none\n")?;
    } else {
        let mut table = Table::new([Left("NAMESPACE"), Left("NAME")]);
        for object in &reply.objects {
            table.row([field(object, "namespace"), field(object, "name")]);
        }
        say(&table.render())?;
    }
    Ok(if one && reply.objects.is_empty() { NO } else { 0 })
}

fn field(object: &Value, field: &str) -> String {
    object
        .pointer("/metadata")
        .and_then(|m| m.get(field))
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

fn name(object: &Value) -> String {
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or("object");
    let (namespace, name) = (field(object, "namespace"), field(object, "name"));
    if namespace.is_empty() { format!("{kind} {name}") } else { format!("{kind} {namespace}/{name}") }
}

/// The files meant, in order of their names.
fn files(from: &Path) -> Vec<Result<PathBuf, String>> {
    if !from.is_dir() {
        return vec![Ok(from.to_owned())];
    }
    let failed = |err: std::io::Error| format!("{}: {err}", from.display());
    let entries = match std::fs::read_dir(from) {
        Ok(entries) => entries,
        Err(err) => return vec![Err(failed(err))],
    };
    let is_manifest = |path: &Path| {
        path.extension().is_some_and(|ext| ["yaml", "yml", "json"].iter().any(|known| ext == *known))
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed));
    let mut files: Vec<_> =
        paths.filter(|path| path.as_ref().map_or(true, |path| is_manifest(path))).collect();
    files.sort();
    files
}

/// The objects of a file, lists taken apart.
fn read(file: &Path) -> Result<Vec<Value>, String> {
    let mut text = Vec::new();
    let source: Box<dyn Read> = if file == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::fs::File::open(file).map_err(|err| err.to_string())?)
    };
    source.take(MOST_BYTES).read_to_end(&mut text).map_err(|err| err.to_string())?;
    let mut objects = Vec::new();
    for mut document in yaml::documents(&text).map_err(|err| err.to_string())? {
        let list = document.get("kind").and_then(Value::as_str) == Some("List");
        match document.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) if list => objects.extend(items),
            _ => objects.push(document),
        }
    }
    Ok(objects)
}
