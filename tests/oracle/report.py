"""``make oracle``: every record of the peers with its largest relative error through ``sample``, the excluded ones by name.

    python tests/oracle/report.py [FOLDER [NAME ...]]     FOLDER holds diffusers.npz, k_diffusion.npz, ...; the committed by default
                                                          NAME: records whose names begin so
"""

import sys
from pathlib import Path

import jax

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent.parent.parent)]
BOUND = 1e-8


def main(folder: Path, names: tuple = ("",)) -> int:
    """Prints one line a record; 1 if one is beyond the bound or is translated by nobody."""
    from oracle.case import HERE, Excluded, error, records
    from oracle.translate import PEERS, translate

    jax.config.update("jax_enable_x64", True)
    failed = excluded = count = 0
    for peer in PEERS if folder == HERE else [peer for peer in PEERS if (folder / f"{peer}.npz").exists()]:
        for name, record in records(peer, folder).items():
            if not name.startswith(tuple(names)):
                continue
            count += 1
            try:
                case = translate(record)
                if isinstance(case, Excluded):
                    excluded += 1
                    print(f"{peer:15}{name:45}excluded: {case.reason}", flush=True)
                    continue
                found = error(record, case)
                failed += not found <= BOUND
                print(f"{peer:15}{name:45}{found:.1e}{'' if found <= BOUND else '   beyond the bound'}   {case.sampler}", flush=True)
            except Exception as e:  # a record that cannot be run is a line of this table, not its end
                failed += 1
                print(f"{peer:15}{name:45}{type(e).__name__}: {str(e).splitlines()[0]}", flush=True)
    print(f"{count} records: {count - failed - excluded} to {BOUND:g} relative, {excluded} excluded, {failed} not reproduced")
    return int(failed > 0)


if __name__ == "__main__":
    from oracle.case import HERE

    sys.exit(main(Path(sys.argv[1]) if sys.argv[1:] else HERE, tuple(sys.argv[2:]) or ("",)))
