//! Context packages: made, listed, taken away. Below `context/` of a mount they are directories.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde_json::{Map, Value, json};

use crate::agents::policy::Section;
use crate::legacy::context::{NewPackage, Package, PackageError};
use crate::tree::{Seq, Timestamp};

use super::acting::READ;
use super::ask::{Fields, TreePath, encode};
use super::problem::{Problem, answer};
use super::routes::{Answer, Asked, BODY_MAX, waiting, whole};
use super::session::TEXT_MAX;
use super::state::Shared;

/// Where packages are, in paths of requests.
const PLACE: &str = "/context/packages";
/// Most capabilities, and most files, of one package.
const LIST_MAX: usize = 1000;
/// Longest id of a package, in bytes: it is the name of a directory.
const ID_MAX: usize = 255;
/// Longest path of a file, in bytes.
const PATH_MAX: usize = 4096;

impl From<PackageError> for Problem {
    fn from(error: PackageError) -> Self {
        match error {
            PackageError::Id | PackageError::Expiry => Self::bad(error.to_string()),
            PackageError::Taken => Self::conflict(error.to_string()),
            PackageError::TooMany | PackageError::TooLarge => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, error.to_string())
            }
            PackageError::Tree(refusal) => refusal.into(),
        }
    }
}

fn shown(package: &Package) -> Value {
    let mut manifest = package.manifest();
    if let Value::Object(fields) = &mut manifest {
        fields.insert("sequence".to_owned(), package.seq.0.into());
    }
    manifest
}

pub(crate) async fn make(shared: Shared, asked: Asked) -> Answer {
    let acting = shared.acting(&asked.session)?;
    let body = whole(&shared, asked.body, BODY_MAX).await?;
    let mut fields = Fields::parse(&body)?;
    let new = NewPackage {
        package_id: fields.text("package_id", ID_MAX),
        request_id: fields.optional_text("request_id", TEXT_MAX).unwrap_or_default(),
        agent_capabilities: fields.texts("agent_capabilities", LIST_MAX, TEXT_MAX),
        files_involved: fields.texts("files_involved", LIST_MAX, PATH_MAX),
        context_data: fields.object("context_data"),
        expires_at: fields.optional_text("expires_at", TEXT_MAX),
    };
    fields.done()?;
    let paths: Vec<TreePath> = new
        .files_involved
        .iter()
        .map(|path| TreePath::from_text(path))
        .collect::<Result<_, _>>()?;
    let made = waiting(move || {
        for path in &paths {
            match acting.find(path, Seq::NOW) {
                // Whoever looks at the package reads them.
                Ok(inode) => acting.may(&inode, READ, Seq::NOW)?,
                // What is not there is left out of it; what may not be looked for is no such thing.
                Err(Problem { status: StatusCode::NOT_FOUND | StatusCode::CONFLICT, .. }) => (),
                Err(refused) => return Err(refused),
            }
        }
        Ok(shared.packages(&acting.tree).make(acting.origin(), &new, Timestamp::now())?)
    })
    .await?;
    let mut response = answer(StatusCode::CREATED, &shown(&made));
    if let Ok(location) =
        HeaderValue::from_str(&format!("{PLACE}/{}", encode(made.package_id.as_bytes())))
    {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

pub(crate) async fn list(shared: Shared, asked: Asked) -> Answer {
    let acting = shared.acting(&asked.session)?;
    acting.may_read_section(Section::Context, &[], false)?;
    let packages = waiting(move || {
        let mut packages = shared.packages(&acting.tree).list(Timestamp::now())?;
        packages.retain(|package| {
            acting.reads_section(Section::Context, &manifest_of(&package.package_id))
        });
        Ok(packages)
    })
    .await?;
    let packages: Vec<Value> = packages.iter().map(|package| shown(package)).collect();
    let mut said = Map::new();
    said.insert("count".to_owned(), packages.len().into());
    said.insert("packages".to_owned(), packages.into());
    Ok(answer(StatusCode::OK, &Value::Object(said)))
}

/// The file in `context/` of a mount that shows what is shown here of a package.
fn manifest_of(id: &str) -> [&[u8]; 2] {
    [id.as_bytes(), b"manifest.json"]
}

/// The package a path names.
fn id_of(asked: &Asked) -> Result<String, Problem> {
    let path = asked.parts.uri.path();
    let path = TreePath::from_url(path.strip_prefix(PLACE).unwrap_or(path))?;
    match <[Vec<u8>; 1]>::try_from(path.names) {
        Ok([name]) => String::from_utf8(name).map_err(|_| Problem::bad("the id is no UTF-8")),
        Err(_) => Err(Problem::missing("Not Found")),
    }
}

pub(crate) async fn get(shared: Shared, asked: Asked) -> Answer {
    let id = id_of(&asked)?;
    let acting = shared.acting(&asked.session)?;
    acting.may_read_section(Section::Context, &manifest_of(&id), false)?;
    let found =
        waiting(move || Ok(shared.packages(&acting.tree).find(&id, Timestamp::now())?)).await?;
    let found = found.ok_or_else(|| Problem::missing("there is no such package"))?;
    Ok(answer(StatusCode::OK, &shown(&found)))
}

pub(crate) async fn remove(shared: Shared, asked: Asked) -> Answer {
    let id = id_of(&asked)?;
    let acting = shared.acting(&asked.session)?;
    // Who may not see what there is may not take it away either.
    acting.may_read_section(Section::Context, &[id.as_bytes()], true)?;
    let removed = waiting(move || {
        Ok(shared.packages(&acting.tree).remove(acting.origin(), &id, Timestamp::now())?)
    });
    if !removed.await? {
        return Err(Problem::missing("there is no such package"));
    }
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

/// The schema of a request, for the description.
pub(crate) fn schema() -> Value {
    let text = |max: usize| json!({ "type": "string", "maxLength": max });
    let texts = |max: usize| json!({ "type": "array", "items": text(max), "maxItems": LIST_MAX });
    json!({
        "type": "object",
        "required": ["package_id"],
        "properties": {
            "package_id": { "type": "string", "minLength": 1, "maxLength": ID_MAX },
            "request_id": text(TEXT_MAX),
            "agent_capabilities": texts(TEXT_MAX),
            "files_involved": texts(PATH_MAX),
            "context_data": { "type": "object" },
            "expires_at": { "type": ["string", "null"], "format": "date-time" },
        },
    })
}
