def add_wheel_options(parser):
    parser.add_argument("--wheels", nargs="*")
    parser.add_argument("--assemble")


def run_wheels(parser, options):
    return 0
