//! Loss of stores and damage of backups.

use std::fs;
use std::path::{Path, PathBuf};

use cucumber::when;

use super::world::World;

#[when("the database is lost")]
async fn database_lost(world: &mut World) {
    world.close().await;
    world.pipeline.start_empty_database().await;
}

#[when("both stores are lost")]
async fn stores_lost(world: &mut World) {
    database_lost(world).await;
    world.pipeline.redis().ask::<()>(&["FLUSHALL"]).await.unwrap();
    world.pipeline.redis().ask::<()>(&["FUNCTION", "FLUSH"]).await.unwrap();
}

#[when(expr = "a byte in the {word} backup is flipped")]
async fn flipped(world: &mut World, kind: String) {
    let mut files = Vec::new();
    files_in(&world.pipeline.folder().join("backups").join(kind), &mut files);
    let payload = files
        .into_iter()
        .filter(|file| file.extension().is_none_or(|name| name != "json"));
    let file = payload
        .max_by_key(|file| fs::metadata(file).unwrap().len())
        .expect("a backup");
    let mut content = fs::read(&file).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    fs::write(&file, content).unwrap();
}

fn files_in(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_in(&path, files)
        } else {
            files.push(path)
        }
    }
}
