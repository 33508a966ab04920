"""Every way by which a slide gets into the service: whole, in pieces, as a form or fetched; alone or in an archive."""
