"""`python -m bench` (what `make bench` runs): the same as `python bench/run.py`; with `scale`, `roundtrips`,
`provisioning`, `enroll` or `gateway` as first argument, those instead.
"""

import sys
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

OTHERS = ("scale", "roundtrips", "provisioning", "enroll", "gateway")

if __name__ == "__main__":
    wanted = sys.argv[1] if sys.argv[1:2] and sys.argv[1] in OTHERS else "run"
    sys.exit(import_module(wanted).main(sys.argv[1 if wanted == "run" else 2 :]))
