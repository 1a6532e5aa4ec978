"""Write a report of sweeps, finished or not: one HTML file with tables, figures and every run, which opens from disk.

dgbench report runs/a                                    to report.html
dgbench report runs/baselines runs/mine -o mine.html     several folders as one
dgbench report runs/a --all_domains runs/a-all           with the gap to models that saw the tested domain
dgbench report runs/a --figures figures                  figures alone, as PDF, SVG and PNG for papers
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from dgbench import cli
from dgbench.core.errors import Problems
from dgbench.core.paths import check_folder
from dgbench.report.frames import load_results
from dgbench.report.page.all_domains import FLAG, read_reference
from dgbench.report.page.build import build_page, check_packages, write_figures
from dgbench.report.select import Selector
from dgbench.report.selectors import ALL_SELECTORS, default_selectors, selectors
from dgbench.store.files import write_atomic

OUTPUT = Path("report.html")
"""Where the report is written unless `--output` says so."""


def parser() -> cli.Parser:
    """Declare the flags of the command."""
    about = (__doc__ or "").partition("\n")[0]
    found = cli.Parser(prog="dgbench report", description=about, epilog=cli.examples(__doc__ or ""))
    found.add_folder("input_dir", "folders of sweeps, dgbench's or DomainBed's; several make one report", several=True)
    found.add_argument("-o", "--output", type=Path, metavar="FILE", help=f"the report; default: {OUTPUT}")
    found.add_argument(
        "--figures", type=Path, metavar="DIR", help="write each figure there; the report only if --output is given too"
    )
    found.add_argument("--selector", nargs="+", default=[], metavar="NAME", help=f"some of {', '.join(ALL_SELECTORS)}")
    found.add_argument(
        FLAG, metavar="DIR", help="a sweep launched with --all_domains: shows how far rows stay below it"
    )
    found.add_argument(
        "--partial", action="store_true", help="show numbers of incomplete cells too, each marked with *"
    )
    return found


def main(argv: Sequence[str]) -> int:
    """Write the report, the figures, or both; return 0 also for an incomplete sweep."""
    args, problems = parser().parse_args(argv), Problems()
    output = args.output or (None if args.figures else OUTPUT)
    chosen: tuple[Selector, ...] = ()
    with problems.collecting():
        chosen = selectors(args.selector)
    with problems.collecting():
        check_packages()
    if output and not output.parent.is_dir():
        problems.add(f"--output {output}: there is no folder {output.parent}")
    if args.figures:
        with problems.collecting():
            check_folder(args.figures, "--figures")
    problems.raise_if_any()
    results = load_results(*args.input_dir)
    reference = read_reference(args.all_domains, results.results) if args.all_domains else None
    chosen = chosen or default_selectors(results.results)
    if output:
        page = build_page(results, chosen, args.partial, reference).encode()
        write_atomic(output, page)
        print(f"wrote {output} ({len(page) / 1e6:.1f} MB)")
    if args.figures:
        n = len(list(write_figures(results, chosen, args.figures)))
        print(f"wrote {n} files to {args.figures}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
