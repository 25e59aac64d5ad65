//! What earlier versions wrote is still understood.

use yuntai_sim::golden::{check, frame, make, pack, pack_frame};

#[test]
fn old_bytes_are_understood_and_unknown_versions_are_not() {
    check().unwrap();
}

/// Writes the bytes of this build's version. Only for a new version: what is there is kept.
#[test]
#[ignore = "makes files in the source tree"]
fn make_the_bytes_of_this_version() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    for (name, bytes) in [("store-1", pack(&make())), ("frame-1", pack_frame(&frame()))] {
        let path = folder.join(name);
        if std::fs::metadata(&path).map_or(0, |about| about.len()) == 0 {
            std::fs::write(path, bytes).unwrap();
        }
    }
}
