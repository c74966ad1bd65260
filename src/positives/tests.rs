use super::*;

#[test]
fn groups_equal_their_csr() {
    let (gx, gy) = ([3, 7, 3, 9], [7, 3, 3, 1, 7]);
    let groups = Positives::from_groups(&gx, &gy).unwrap();
    let csr = Positives::from_csr(&[0, 2, 4, 6, 6], &[1, 2, 4, 0, 2, 1], 5).unwrap();
    for i in 0..4 {
        assert_eq!(groups.row(i), csr.row(i));
        assert_eq!(groups.row_offset(i), csr.row_offset(i));
    }
    for j in 0..5 {
        assert_eq!(groups.col(j), csr.col(j));
    }
    assert_eq!(groups.nnz(), 6);
    assert_eq!(groups.unmatched(), (1, 1));
    let cut = groups.restricted(1..3, 1..5).unwrap();
    assert_eq!((cut.row(0), cut.row(1)), (&[3u32][..], &[0u32, 1][..]));
}

#[test]
fn subsets_of_shared_and_own_lists_agree() {
    let groups = Positives::from_groups(&[3, 7, 3, 9, 7], &[7, 3, 3, 1, 7]).unwrap();
    let csr = Positives::from_csr(&[0, 2, 4, 6, 6, 8], &[1, 2, 0, 4, 1, 2, 0, 4], 5).unwrap();
    let (x, y) = ([0, 1, 4], [0, 2, 3]);
    let (a, b) = (groups.subset(&x, &y).unwrap(), csr.subset(&x, &y).unwrap());
    assert_eq!((a.n_x(), a.n_y(), a.nnz()), (3, 3, 3));
    for i in 0..3 {
        assert_eq!(a.row(i), b.row(i));
        assert_eq!(a.col(i), b.col(i));
        assert_eq!(a.row_offset(i), b.row_offset(i));
    }
    assert_eq!((a.row(0), a.row(1)), (&[1u32][..], &[0u32][..]));
    assert!(Positives::diagonal(9).subset(&[1, 5], &[1, 5]).unwrap().is_diagonal());
}

#[test]
fn equal_rows_have_each_others_matches() {
    use crate::io::{HostMatrix, duplicate_groups};
    let of = |ids: &[f32]| {
        let m = HostMatrix::from_f32("m", ids.len(), 1, ids.to_vec()).unwrap();
        duplicate_groups(&m).unwrap()
    };
    // Images a a b b c, captions p q q r s: q is a caption of a and of b.
    let (x, y) = (of(&[1., 1., 2., 2., 3.]), of(&[1., 2., 2., 3., 4.]));
    let p = Positives::of_equal_rows(&x, &y).unwrap();
    let rows: Vec<&[u32]> = (0..5).map(|i| p.row(i)).collect();
    assert_eq!(rows, [&[0, 1, 2][..], &[0, 1, 2], &[1, 2, 3], &[1, 2, 3], &[4]]);
    let cols: Vec<&[u32]> = (0..5).map(|j| p.col(j)).collect();
    assert_eq!(cols, [&[0, 1][..], &[0, 1, 2, 3], &[0, 1, 2, 3], &[2, 3], &[4]]);
    assert!((0..5).all(|i| (0..5).all(|j| p.contains(i, j) == p.col(j).contains(&(i as u32)))));
    // Repeats on one side are groups.
    let p = Positives::of_equal_rows(&of(&[7., 7., 8.]), &of(&[1., 2., 3.])).unwrap();
    let groups = Positives::from_groups(&[7, 7, 8], &[7, 7, 8]).unwrap();
    assert!((0..3).all(|i| p.row(i) == groups.row(i) && p.col(i) == groups.col(i)));
    assert!(Positives::of_equal_rows(&of(&[1., 2.]), &of(&[3., 4.])).unwrap().is_diagonal());
    assert!(Positives::of_equal_rows(&of(&[1., 2.]), &of(&[3.])).is_err());
}

#[test]
fn dropped_rows_take_their_pairs_along() {
    let (x, y, p) = Positives::diagonal(5).without(&[1], &[3]).unwrap();
    assert_eq!((x, y), (vec![0, 2, 4], vec![0, 2, 4]));
    assert!(p.is_diagonal() && p.n_x() == 3);
    let groups = Positives::from_groups(&[3, 7, 3], &[7, 3, 3, 1]).unwrap();
    let (x, y, p) = groups.without(&[0], &[2]).unwrap();
    assert_eq!((x, y), (vec![1, 2], vec![0, 1, 3]));
    assert_eq!((p.row(0), p.row(1), p.unmatched()), (&[0u32][..], &[1u32][..], (0, 1)));
}

#[test]
fn hostile_lists_are_refused() {
    let bad = |p: &[i64], i: &[i64]| Positives::from_csr(p, i, 3).unwrap_err().to_string();
    assert!(bad(&[], &[]).contains("pos_indptr"));
    assert!(bad(&[0, 1], &[3]).contains("3 in row 0"));
    assert!(bad(&[0, 1], &[-1]).contains("-1 in row 0"));
    assert!(bad(&[0, 2], &[1, 1]).contains("1 twice in row 0"));
    assert!(bad(&[0, 2, 1], &[0]).contains("row 0"));
    assert!(bad(&[0, 0, 0], &[]).contains("none"));
    assert!(Positives::from_groups(&[1], &[2]).is_err());
}

#[test]
fn csr_that_is_the_identity_is_known_as_diagonal() {
    assert!(Positives::from_csr(&[0, 1, 2], &[0, 1], 2).unwrap().is_diagonal());
    assert!(!Positives::from_csr(&[0, 1, 2], &[1, 0], 2).unwrap().is_diagonal());
    // The same columns in the same order, all of one row.
    assert!(!Positives::from_csr(&[0, 0, 2], &[0, 1], 2).unwrap().is_diagonal());
    let p = Positives::diagonal(3);
    assert_eq!((p.nnz(), p.row(2), p.col(1), p.row_offset(3)), (3, &[2u32][..], &[1u32][..], 3));
}
