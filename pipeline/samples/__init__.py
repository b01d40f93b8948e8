"""An invented site, its crawl and labelled pictures, to try everything on (`lcl sample-crawl`)."""
