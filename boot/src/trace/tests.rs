use super::*;

#[test]
fn the_repositorys_traces_are_well_formed() {
    let project = Project::find().unwrap();
    let names = names(&project).unwrap();
    assert!(names.len() >= 4, "{names:?}");
    for name in names {
        load(&project, &name).unwrap();
    }
}

#[test]
fn a_header_that_claims_four_billion_slots_costs_no_memory() {
    let header = [&b"HEAPTRC1"[..], &[1, 0, 0, 0], &[0xff; 4], &[0; 8]].concat();
    assert_eq!(
        check(&header),
        Err(TraceError::TooManySlots {
            slots: u32::MAX,
            operations: 1
        })
    );
}
