//! What fuzz targets call: every decoder of what this room reads from disk. Compiled for fuzzing and for tests
//! alone: here every target also runs over random bytes.

use std::path::Path;

use crate::{
    backup, journal,
    log::{LogBackend as _, disk::DiskLog, segment, watermark::Watermark},
    snapshot,
};

/// A snapshot file.
pub fn snapshot(bytes: &[u8]) {
    let _ = snapshot::parse(bytes);
}

/// A record of the journal: 8 bytes of key, then the value.
pub fn journal_record(bytes: &[u8]) {
    let (key, value) = bytes.split_at(bytes.len().min(8));
    let _ = journal::parse(key, value);
}

/// A backup file, and what stands inside one.
pub fn backup_file(bytes: &[u8]) {
    backup::fuzz_file(bytes);
}

/// What a bucket lists.
pub fn bucket_list(bytes: &[u8]) {
    backup::fuzz_bucket(bytes);
}

/// The log's only file, with the watermark at its beginning; and the watermark file. `dir` is empty, and is
/// afterwards whatever the log has made of it.
pub fn log_files(bytes: &[u8], dir: &Path) -> std::io::Result<()> {
    let log = dir.join("log");
    std::fs::create_dir_all(&log)?;
    std::fs::write(log.join(segment::name(0)), bytes)?;
    drop(Watermark::create(&dir.join("watermark"))?);
    if let Ok(mut log) = DiskLog::open(dir, dir) {
        let state = log.state();
        let _ = log.read(state.first_index(), state.next_index(), 1024 * 1024);
    }
    std::fs::write(dir.join("watermark"), bytes)?;
    let _ = Watermark::open(&dir.join("watermark"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_make_a_target_fail(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            snapshot(&bytes);
            journal_record(&bytes);
            backup_file(&bytes);
            bucket_list(&bytes);
        }

        #[test]
        fn no_list_of_a_bucket_makes_its_target_fail(key in "[a-z/.&<>]{0,20}", text in ".{0,60}", cut in 0..400_usize) {
            let list = format!(
                "<?xml version=\"1.0\"?><ListBucketResult><Contents><ETag>x</ETag><Key>lab/{key}</Key>\
                 <LastModified>2026-01-01T00:00:00.000Z</LastModified><Size>{text}</Size></Contents>\
                 <NextContinuationToken>{text}</NextContinuationToken></ListBucketResult>"
            );
            bucket_list(list.as_bytes());
            bucket_list(&list.as_bytes()[..cut.min(list.len())]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn no_files_make_the_log_fail(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let dir = tempfile::tempdir().expect("tempdir");
            log_files(&bytes, dir.path()).expect("files are written");
        }
    }
}
