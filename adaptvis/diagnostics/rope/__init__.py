"""How sensitive attention on the image is to where its tokens are said to be."""
