"""Writers of pyramidal results; `formats` lists the output formats."""
