//! A name that comes to be while the kernel's CREATE of it is on its way, as by HTTP: each CREATE meets a file that
//! was made a moment before, of the superuser and closed to others.

use std::io::{self, IoSlice};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;

use lighthouse_fuse::agents::Agents;
use lighthouse_fuse::proto::{Dialect, Message, Op, Reply};
use lighthouse_fuse::server::{Config, Server};
use lighthouse_fuse::store::{CreateOptions, OpenOptions, Store};
use lighthouse_fuse::transport::dev_fuse::DevFuse;
use lighthouse_fuse::transport::mount::{self, MountOptions};
use lighthouse_fuse::transport::{Buffer, Delivery, Frame, Transport, Wait};
use lighthouse_fuse::tree::operation::{Attributes, Caller, Operation, S_IFREG, WriteTo};
use lighthouse_fuse::tree::{Ino, Tree};
use lighthouse_fuse::view::{self, View};

use crate::fixture::{Place, as_somebody, needs_root_and_device, outside};
use crate::{Outcome, tests};

tests![opening_what_was_made_meanwhile_is_checked_as_opening_anything];

fn opening_what_was_made_meanwhile_is_checked_as_opening_anything() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    let _server = place.behind().ready();
    let shell = |script: &str| {
        let mut command = Command::new("timeout");
        command.args(["20", "sh", "-c", script, "sh"]).arg(place.at.join("current"));
        command
    };
    for (name, to) in [("cut", ">"), ("appended", ">>"), ("opened", "<>")] {
        let script = format!("cd \"$1\" && exec 3{to} {name}");
        let output = as_somebody(&mut shell(&script)).output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(words.contains("Permission denied"), "{name}: {words}");
        let content = outside("cat", &[&place.at.join("current").join(name)]).stdout;
        assert_eq!(content, b"made meanwhile\n", "{name}");
    }
    for (name, to, left) in [("a", ">", "new\n"), ("b", ">>", "made meanwhile\nnew\n")] {
        let output = shell(&format!("cd \"$1\" && echo new {to} {name} && cat {name}"));
        let output = { output }.output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), left, "{name}: {output:?}");
    }
    Ok(())
}

struct Behind {
    device: DevFuse,
    tree: Tree,
}

impl Behind {
    fn make(&self, name: &[u8]) {
        let (parent, mode) = (Ino::ROOT, S_IFREG | 0o600);
        let (rdev, exclusive, security) = (0, true, None);
        let make = Operation::Make { parent, name, mode, rdev, exclusive, security };
        let caller = Caller::default();
        let made = self.tree.perform(&caller, &make).unwrap().inode.unwrap();
        self.tree.write(&caller, made.ino, WriteTo::Offset(0), b"made meanwhile\n", false).unwrap();
    }
}

impl Transport for Behind {
    fn receive<'b>(&self, buffer: &'b mut Buffer) -> io::Result<Option<Frame<'b>>> {
        let frame = self.device.receive(buffer)?;
        if let Some(Frame::Whole(bytes)) = &frame
            && let Ok(message) = Message::split(bytes, Dialect::NEWEST)
            && let Ok(Op::Create(create)) = Op::decode(&message)
        {
            self.make(create.name.as_bytes());
        }
        Ok(frame)
    }
    fn send(&self, reply: &Reply<'_>) -> io::Result<Delivery> {
        self.device.send(reply)
    }
    fn send_notification(&self, chunks: &[IoSlice<'_>]) -> io::Result<Delivery> {
        self.device.send_notification(chunks)
    }
}

/// `behind STORE MOUNTPOINT`
pub(crate) fn serve_in_this_process(arguments: &[String]) -> ExitCode {
    let (store, at) = (Path::new(&arguments[0]), Path::new(&arguments[1]));
    let opened = Store::create(store, &CreateOptions::default(), &OpenOptions::default());
    let opened = Arc::new(opened.unwrap());
    let tree = Tree::new(Arc::clone(&opened));
    let set = Attributes { mode: Some(0o777), ..Attributes::default() };
    let open_to_all = Operation::SetAttributes { ino: Ino::ROOT, set };
    tree.perform(&Caller::default(), &open_to_all).unwrap();
    let point = mount::check(at, store, false).and_then(mount::Site::prepare).unwrap();
    let (device, _mounted) = point.mount(&MountOptions::new(store.to_owned())).unwrap();
    let behind = Behind { device: DevFuse::new(device, Wait::Block).unwrap(), tree };
    let agents = Agents::new(Arc::clone(&opened));
    let view = View::new(Tree::new(opened), agents, view::Options::default());
    Server::new(&behind, &view, Config { readers: 1, ..Config::default() })
        .run(|| eprintln!("ready"))
        .unwrap();
    ExitCode::SUCCESS
}
