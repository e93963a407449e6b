"""Every connection this process opens on somebody else's word: DNS, HTTP, and the guard over addresses."""
