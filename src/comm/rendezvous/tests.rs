use super::*;

/// Ranks as threads: locks belong to open files, not to processes.
fn meet(place: &Path, size: usize) -> Vec<Meeting> {
    std::thread::scope(|scope| {
        let join = |rank| {
            scope.spawn(move || Meeting::at(place, (rank, size), &|_| (), || Ok(b"id".repeat(64))).unwrap())
        };
        let handles: Vec<_> = (0..size).map(join).collect();
        handles.into_iter().map(|h| h.join().unwrap()).collect()
    })
}

fn files(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

#[test]
fn all_get_the_bytes_of_the_first_and_leave_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let met = meet(&dir.path().join("job"), 4);
    assert!(met.iter().all(|m| m.bytes() == b"id".repeat(64)));
    assert_eq!(met.iter().map(Meeting::local).collect::<Vec<_>>(), [(0, 4), (1, 4), (2, 4), (3, 4)]);
    assert!(met.iter().all(|m| m.dead().is_none()));
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    drop(met);
    assert_eq!(files(dir.path()), 0);
}

#[test]
fn who_ends_without_leaving_is_seen_and_who_leaves_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut met = meet(&dir.path().join("job"), 3);
    drop(met.pop());
    assert!(met.iter().all(|m| m.dead().is_none()));
    // As the end of a process does it: the files are closed, nothing else.
    met[1].held.clear();
    assert_eq!(met[0].dead(), Some(1));
}

#[test]
fn cards_of_earlier_jobs_are_not_taken_for_this_ones() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("job");
    // A job of which all cards were left behind: as if killed, and as on a file system without locks.
    for locked in [true, false] {
        let mut old = meet(&place, 3);
        for m in &mut old {
            let mut card: Card =
                serde_json::from_slice(&std::fs::read(path(&place, m.rank)).unwrap()).unwrap();
            card.locked = locked;
            card.bytes = b"old".to_vec();
            std::fs::write(path(&place, m.rank), serde_json::to_vec(&card).unwrap()).unwrap();
            m.held.clear();
        }
        // Rank 2 is late: rank 0 may well have taken the old one for it.
        let met = std::thread::scope(|scope| {
            let place = &place;
            let join = |rank: usize| {
                scope.spawn(move || {
                    std::thread::sleep(Duration::from_millis(100 * rank as u64));
                    Meeting::at(place, (rank, 3), &|_| (), || Ok(b"new".to_vec())).unwrap()
                })
            };
            let handles: Vec<_> = (0..3).map(join).collect();
            handles.into_iter().map(|h| h.join().unwrap()).collect::<Vec<_>>()
        });
        assert!(met.iter().all(|m| m.bytes() == b"new" && m.dead().is_none()));
        drop((old, met));
        assert_eq!(files(dir.path()), 0);
    }
}

#[test]
fn a_first_rank_that_fails_tells_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let place = &dir.path().join("job");
    let said = std::thread::scope(|scope| {
        let join = |rank: usize| {
            let bytes = || Err(Error::NoDevice("none here".into()));
            scope.spawn(move || Meeting::at(place, (rank, 3), &|_| (), bytes).unwrap_err().to_string())
        };
        let handles: Vec<_> = (0..3).map(join).collect();
        handles.into_iter().map(|h| h.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(said[0], "no device: none here");
    assert!(said[1..].iter().all(|s| s.contains("rank 0")), "{said:?}");
    assert_eq!(files(dir.path()), 0);
}
