#!/bin/busybox sh
# The first process of the virtual machine: the host's root filesystem, read-only, under a layer of memory.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
while read -r module; do
  insmod "/modules/$module" || echo "cannot load $module"
done < /modules/order
option() { sed -n "s/.*\b$1=\([^ ]*\).*/\1/p" /proc/cmdline; }
mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=1048576,cache=loose root /host
mount -t tmpfs -o size=70% tmpfs /layer
mkdir /layer/upper /layer/work
mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work overlay /new
mount -t proc proc /new/proc
mount -t sysfs sysfs /new/sys
mount --move /dev /new/dev
mkdir -p /new/dev/shm /new/vm-results /new/usr/lib/modules
mount -t tmpfs tmpfs /new/dev/shm
mount -t configfs configfs /new/sys/kernel/config
mount -t 9p -o trans=virtio,version=9p2000.L,msize=1048576 results /new/vm-results
mount --bind "/host$(option vm_modules)" /new/usr/lib/modules
echo "the guest is up after $(cut -d' ' -f1 /proc/uptime) s"
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
chroot /new "$(option vm_python)" "$(option vm_script)" /vm-results $(option vm_only | tr , ' ')
echo "the guest's script ended with $?"
sync
poweroff -f
