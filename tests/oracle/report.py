"""``make oracle``: every record of the peers with its largest relative error through ``sample``, the excluded ones by name.

    python tests/oracle/report.py [FOLDER [NAME ...]]     FOLDER holds diffusers.npz, k_diffusion.npz, ...; the committed by default
                                                          NAME: records whose names begin so

1 if a record is beyond its bound or is translated by nobody; 2, and one line, for a folder or names that hold no records.
"""

import sys
import zipfile
from pathlib import Path

import jax

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent.parent.parent)]
BOUND = 1e-8


def chosen(folder: Path, names: tuple) -> dict:
    """``(peer, name) -> record`` of the folder; ConfigError where there are none."""
    from oracle.case import HERE, records
    from oracle.translate import PEERS

    from score_lab.build import refuse

    files = ", ".join(f"{peer}.npz" for peer in PEERS)
    if not folder.is_dir():
        refuse("RECORDS", str(folder), f"a folder that holds some of {files}")
    found = {}
    for peer in PEERS if folder == HERE else [peer for peer in PEERS if (folder / f"{peer}.npz").exists()]:
        try:
            found.update({(peer, name): record for name, record in records(peer, folder).items()})
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            why = f"it cannot be read ({type(error).__name__})"
            refuse("RECORDS", str(folder / f"{peer}.npz"), f"records as tests/oracle/draw.py writes them: {why}")
    if not found:
        refuse("RECORDS", str(folder), f"a folder that holds some of {files}")
    wanted = {key: record for key, record in found.items() if key[1].startswith(names)}
    if not wanted:
        first = sorted({name.split("_")[0] for _, name in found})
        refuse("NAME", " ".join(names), f"beginnings of records' names: {', '.join(first)}", first)
    return wanted


def main(folder: Path, names: tuple = ("",)) -> int:
    """Prints one line a record; 1 if one is beyond the bound or is translated by nobody."""
    from oracle.case import Excluded, error
    from oracle.translate import translate

    wanted = chosen(folder, names)
    jax.config.update("jax_enable_x64", True)
    failed = excluded = loose = count = 0
    for (peer, name), record in wanted.items():
        count += 1
        try:
            case = translate(record)
            if isinstance(case, Excluded):
                excluded += 1
                print(f"{peer:15}{name:45}excluded: {case.reason}", flush=True)
                continue
            found = error(record, case)
            failed += not found <= case.bound
            loose += case.bound > BOUND
            says = "" if found <= case.bound else "   beyond the bound"
            tolerance = "" if case.bound <= BOUND else f"   <= {case.bound:.0e}, 30 of their tolerances"
            print(f"{peer:15}{name:45}{found:.1e}{says}{tolerance}   {case.sampler}", flush=True)
        except Exception as e:  # a record that cannot be run is a line of this table, not its end
            failed += 1
            print(f"{peer:15}{name:45}{type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}", flush=True)
    held = count - failed - excluded
    adaptive = f" ({loose} of them adaptive, within 30 of their tolerances)" if loose else ""
    print(f"{count} records: {held} held to {BOUND:g} relative{adaptive}, {excluded} excluded, {failed} not reproduced")
    return int(failed > 0)


def run(arguments: list[str]) -> int:
    """The exit status of a command line: ``main``'s, or 2 for what holds no records."""
    from oracle.case import HERE

    from score_lab.build import ConfigError

    try:
        return main(Path(arguments[0]) if arguments else HERE, tuple(arguments[1:]) or ("",))
    except ConfigError as problem:
        print(problem, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
