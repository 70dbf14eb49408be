"""The benchmark of claims, small: what it counts must be nothing, whatever it measures."""

from benchmarks.claims import run


def test_no_claim_is_doubled_and_no_limit_passed() -> None:
    table = run(jobs=60, count=6, rate=300, seconds=0.3)
    [ours] = [line for line in table.splitlines() if line.startswith("| ours ")]
    cells = [cell.strip() for cell in ours.strip("|").split("|")]
    assert cells[1] == "90", "more claims than jobs"
    assert cells[-2:] == ["0", "0"]
