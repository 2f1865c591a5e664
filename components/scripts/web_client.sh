# Serves the web client as its image does, on IPv6 too: the image's file names IPv4 alone.
# Its folder of configuration can't be written here, and so its entrypoint's own remedy does nothing.
mkdir -p /tmp/conf.d
sed 's/listen 8080/listen [::]:8080 ipv6only=off/' /etc/nginx/conf.d/default.conf > /tmp/conf.d/default.conf
sed 's,/etc/nginx/conf.d,/tmp/conf.d,' /etc/nginx/nginx.conf > /tmp/nginx.conf
exec nginx -c /tmp/nginx.conf -g 'daemon off;'
