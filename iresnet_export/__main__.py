"""`python -m iresnet_export`."""

from iresnet_export.cli.main import main

main()
