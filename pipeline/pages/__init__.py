"""A captured page to a document: main content, images in their order, addresses, opt-outs and licences (`read_page` is the way in)."""
