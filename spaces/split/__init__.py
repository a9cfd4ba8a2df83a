"""Split a merged model between a device and a server, with a codec between them."""
